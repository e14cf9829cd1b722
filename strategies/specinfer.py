"""SpecInfer: draft a tree of candidates instead of a chain, and check all of its paths in one forward.

Miao et al. 2023 (arXiv 2305.09781). `expansion` says how many children each node of a level has. Children are drawn
independently and tested one after the other, each rejection taking q off what is left of p (multi-step speculative
sampling); at temperature 0 they are the likeliest tokens.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.accept import Accept, rejection
from harness.decoding.session import Session
from harness.decoding.verified import Verified
from harness.strategy import Need, Request, knob
from strategies.drafters.levels import Shaped, branching


@dataclass(frozen=True)
class Specinfer(Verified):
    """Lossless at temperature 0; above it the output law is that of `top_p` with the same knobs."""

    expansion: str = knob("1-1-3-1-1-1-1-1", "children of each node, level by level",
                          sweep=("1-1-3-1-1-1-1-1", "4-2-1", "2-2-2-1"))

    paper: ClassVar[str] = "Miao et al. 2023, arXiv 2305.09781"
    needs: ClassVar[frozenset[Need]] = frozenset({"draft"})

    def __post_init__(self) -> None:
        super().__post_init__()
        branching(self.expansion)

    def drafter(self, session: Session, request: Request) -> Shaped:
        """The draft model, a level at a time."""
        return Shaped(session.draft, self.law(), self.draws(request), branching(self.expansion), replace=True)

    def rule(self) -> Accept:
        """min(1, p/q), then norm(p − q)₊ for the next sibling."""
        return rejection
