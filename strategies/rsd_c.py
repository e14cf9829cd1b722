"""Recursive speculative decoding, constant branching: a draft tree whose siblings are never the same token.

Jeon et al. 2024 (arXiv 2402.14160), RSD-C. `branching` says how many children each node of a level has. They are drawn
without replacement and tested in draw order, each rejection leaving both p and q; at temperature 0 they are the
likeliest tokens.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.accept import Accept, rejection_without_replacement
from harness.decoding.session import Session
from harness.decoding.verified import Verified
from harness.strategy import Need, Request, knob
from strategies.drafters.levels import Shaped, branching


@dataclass(frozen=True)
class RsdC(Verified):
    """Lossless at temperature 0; above it the output law is that of `top_p` with the same knobs."""

    branching: str = knob("2-2-1", "children of each node, level by level", sweep=("2-1", "2-2", "2-2-1", "3-2-1"))

    paper: ClassVar[str] = "Jeon et al. 2024, arXiv 2402.14160"
    needs: ClassVar[frozenset[Need]] = frozenset({"draft"})

    def __post_init__(self) -> None:
        super().__post_init__()
        branching(self.branching)

    def drafter(self, session: Session, request: Request) -> Shaped:
        """The draft model, a level at a time."""
        return Shaped(session.draft, self.law(), self.draws(request), branching(self.branching), replace=False)

    def rule(self) -> Accept:
        """Rejection for siblings drawn without replacement."""
        return rejection_without_replacement
