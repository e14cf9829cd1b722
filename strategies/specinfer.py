"""SpecInfer: a draft model grows a token tree of fixed shape, and the target verifies all of it in one forward.

Miao et al. 2023 (arXiv 2305.09781). `expansion` lists the children of every node, level by level. At temperature 0 they
are the likeliest tokens; above it they are drawn independently. A token may then be drawn twice: the copy gives it a
second chance to be accepted and has no children. `temperature` and `p` set the distribution, which is exact.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from harness.decoding.accept import Accept, rejection
from harness.decoding.verified import Verified
from harness.engine.session import Session
from harness.plugins.strategy import Need, Request, knob
from strategies.drafters.tree import Child, LevelTree, distinct, numbers

NODES = 1024


@dataclass(frozen=True)
class SpecInfer(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    expansion: str = knob("1-1-3-1-1-1-1-1", "children of each node, level by level",
                          sweep=("1-1-3-1-1-1-1-1", "4-2-1", "2-2-2-1", "1-1-1-1"))

    paper: ClassVar[str] = "Miao et al. 2023, arXiv 2305.09781"
    needs: ClassVar[frozenset[Need]] = frozenset({"draft"})

    def __post_init__(self) -> None:
        """Refuse an expansion that is not a list of counts."""
        super().__post_init__()
        numbers("specinfer: expansion", self.expansion, NODES)

    def drafter(self, session: Session, request: Request) -> LevelTree:
        """Return the draft model, one forward a level."""
        counts, stream = numbers("specinfer: expansion", self.expansion, NODES), self.draws(request)

        def pick(level: int, depth: int, q: Tensor) -> list[Child]:
            if stream is None:
                tokens = distinct(q, [counts[level]] * len(q), None)
            else:
                tokens = [[stream.choose(row) for _ in range(counts[level])] for row in q.cpu()]
            return [(row, token, token not in siblings[:i]) for row, siblings in enumerate(tokens)
                    for i, token in enumerate(siblings)]
        return LevelTree(session.draft, len(counts), self.logit_warp(), stream, pick)

    def rule(self) -> Accept:
        """Accept by multi-step rejection."""
        return rejection
