"""Prompt lookup: draft what followed the same words earlier in the text, and let the model check it.

Saxena 2023 (github.com/apoorvumang/prompt-lookup-decoding). No draft model: the last `max_ngram` tokens are looked
up in the prompt and in what was written so far, and the `length` tokens after the match are the draft. `latest`
takes the newest match instead of the earliest. `temperature` and `p` choose the law, which is kept exactly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding import warp
from harness.decoding.accept import at, delta
from harness.decoding.loop import draft_and_verify
from harness.decoding.session import Session
from harness.strategy import Guarantee, Request, Strategy, knob
from strategies.drafters.ngram import NgramLookup


@dataclass(frozen=True)
class PromptLookup(Strategy):
    """Lossless at temperature 0; above it the output law is that of `top_p` with the same knobs."""

    max_ngram: int = knob(3, "longest n-gram looked up, in tokens", low=1, high=64, sweep=(1, 2, 3, 4, 5))
    length: int = knob(10, "tokens drafted after a match", low=1, high=256, sweep=(3, 5, 10, 20, 40))
    latest: bool = knob(False, "take the latest match instead of the earliest", sweep=(False, True))
    temperature: float = knob(0.0, "0 is greedy", low=0, high=10, sweep=(0.0, 0.7, 1.0))
    p: float = knob(1.0, "mass of the nucleus", low=0, high=1, sweep=(0.9, 1.0))

    paper: ClassVar[str] = "Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding"
    family: ClassVar[str] = "speculative"
    guarantee: ClassVar[Guarantee] = "exact-law"

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield the accepted draft and one more token at each step."""
        law = warp.compose(warp.temperature(self.temperature), warp.top_p(self.p))
        drafter = NgramLookup(self.max_ngram, self.length, self.latest)
        return draft_and_verify(session, drafter, at(self.temperature, delta), request, law)
