"""Token recycling: draft what the model predicted after the same token before, in any branch.

Luo et al. 2024 (arXiv 2408.08696). A table keeps the `k` likeliest successors of every token that was read, accepted or
not; a static tree of `nodes` nodes is filled from it, level by level. The template has the paper's level sizes (8, 21,
25, 15, 8 and 3 of 80) and in each level the paths of the lowest product of (rank + 1); for the official one see its
repository. A token that was never read has no row, and nothing is drafted below it (the official code drafts token 0).
`warm` keeps the table from prompt to prompt, as the official code does. `temperature` and `p` set the distribution,
which is exact.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.verified import Verified
from harness.engine.session import Session
from harness.plugins.strategy import Request, knob
from strategies.drafters.recycled import Recycler


@dataclass(frozen=True)
class TokenRecycling(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    nodes: int = knob(80, "nodes of the static tree", low=1, high=1024, sweep=(16, 32, 60, 80, 120))
    k: int = knob(8, "successors kept of a token", low=1, high=64, sweep=(4, 8, 16))
    warm: bool = knob(False, "keep statistics of earlier prompts", sweep=(False, True))

    paper: ClassVar[str] = "Luo et al. 2024, arXiv 2408.08696"
    stateful: ClassVar[bool] = True

    def drafter(self, session: Session, request: Request) -> Recycler:
        """The table of successors, empty unless `warm`."""
        table = session.engine.learnt.setdefault(self.spec(), {}) if self.warm else {}
        return Recycler(self.nodes, self.k, table)
