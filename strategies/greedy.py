"""Greedy decoding: always the likeliest next token.

The baseline that every other strategy is measured against.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.accept import greedy
from harness.decoding.loop import one_by_one
from harness.engine.session import Session
from harness.plugins.strategy import Guarantee, Request, Strategy


@dataclass(frozen=True)
class Greedy(Strategy):
    """Take the argmax at every step; no knobs."""

    paper: ClassVar[str] = "folklore"
    family: ClassVar[str] = "baseline"
    guarantee: ClassVar[Guarantee] = "lossless"
    scores_given: ClassVar[bool] = True

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one token a step."""
        return one_by_one(session, greedy, request)
