"""What all strategies that draft and verify have in common: the law that they keep, and the loop that keeps it."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding import warp
from harness.decoding.accept import Accept, at, delta
from harness.decoding.draw import Stream
from harness.decoding.loop import Drafter, draft_and_verify
from harness.decoding.session import Session
from harness.strategy import Guarantee, Request, Strategy, knob


@dataclass(frozen=True)
class Verified(Strategy):
    """Lossless at temperature 0; above it the output law is that of `top_p` with the same knobs.

    A method says where drafts come from (`drafter`) and, unless they are chosen rather than drawn, which rule keeps
    the law (`rule`).
    """

    temperature: float = knob(0.0, "0 is greedy", low=0, high=10, sweep=(0.0, 0.7, 1.0))
    p: float = knob(1.0, "mass of the nucleus", low=0, high=1, sweep=(0.9, 1.0))

    family: ClassVar[str] = "speculative"
    guarantee: ClassVar[Guarantee] = "exact-law"

    @abstractmethod
    def drafter(self, session: Session, request: Request) -> Drafter:
        """What proposes candidates for this text; it is made anew for each."""

    def rule(self) -> Accept:
        """How drafts are accepted above temperature 0."""
        return delta

    def law(self) -> warp.Warp:
        """What draft and target go through alike before a token is drawn."""
        return warp.compose(warp.temperature(self.temperature), warp.top_p(self.p))

    def draws(self, request: Request) -> Stream | None:
        """Where drafts are drawn from; None at temperature 0, where they are the likeliest tokens."""
        return request.stream if self.temperature else None

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield the accepted drafts and one more token at each step."""
        return draft_and_verify(session, self.drafter(session, request), at(self.temperature, self.rule()), request,
                                self.law())
