"""RSD-C: a draft tree of constant branching whose siblings are drawn without replacement.

Jeon et al. 2024, recursive speculative decoding (arXiv 2402.14160, §3.2.1). `branches` lists the children of every
node, level by level; siblings are distinct, so none is wasted. At temperature 0 they are the likeliest
tokens. `temperature` and `p` set the distribution, which is exact.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from harness.decoding.accept import Accept, rejection_without_replacement
from harness.decoding.verified import Verified
from harness.engine.session import Session
from harness.plugins.strategy import Need, Request, knob
from strategies.drafters.tree import Child, LevelTree, distinct, numbers

NODES = 1024


@dataclass(frozen=True)
class RsdC(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    branches: str = knob("2-2-1", "children of each node, level by level",
                         sweep=("2-1", "2-2", "2-2-1", "3-2-1", "4-2-1", "2-2-2-2"))

    paper: ClassVar[str] = "Jeon et al. 2024, arXiv 2402.14160"
    needs: ClassVar[frozenset[Need]] = frozenset({"draft"})

    def __post_init__(self) -> None:
        """Refuse branches that are not a list of counts."""
        super().__post_init__()
        numbers("rsd_c: branches", self.branches, NODES)

    def drafter(self, session: Session, request: Request) -> LevelTree:
        """Return the draft model, one forward a level."""
        counts, stream = numbers("rsd_c: branches", self.branches, NODES), self.draws(request)
        def pick(level: int, depth: int, q: Tensor) -> list[Child]:
            tokens = distinct(q, [counts[level]] * len(q), stream)
            return [(row, token, True) for row, siblings in enumerate(tokens) for token in siblings]
        return LevelTree(session.draft, len(counts), self.logit_warp(), stream, pick)

    def rule(self) -> Accept:
        """Recursive rejection: rejected tokens are removed from q as well."""
        return rejection_without_replacement
