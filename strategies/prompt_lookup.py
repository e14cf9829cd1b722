"""Prompt lookup: draft what followed the same words earlier in the text, and let the model check it.

Saxena 2023 (github.com/apoorvumang/prompt-lookup-decoding). No draft model: the last `max_ngram` tokens are looked
up in the prompt and in what was written so far, and the `length` tokens after the match are the draft. `latest`
takes the newest match instead of the earliest. `temperature` and `p` choose the law, which is kept exactly.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.session import Session
from harness.decoding.verified import Verified
from harness.strategy import Request, knob
from strategies.drafters.ngram import NgramLookup


@dataclass(frozen=True)
class PromptLookup(Verified):
    """Lossless at temperature 0; above it the output law is that of `top_p` with the same knobs."""

    max_ngram: int = knob(3, "longest n-gram looked up, in tokens", low=1, high=64, sweep=(1, 2, 3, 4, 5))
    length: int = knob(10, "tokens drafted after a match", low=1, high=256, sweep=(3, 5, 10, 20, 40))
    latest: bool = knob(False, "take the latest match instead of the earliest", sweep=(False, True))

    paper: ClassVar[str] = "Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding"

    def drafter(self, session: Session, request: Request) -> NgramLookup:
        """The text itself."""
        return NgramLookup(self.max_ngram, self.length, self.latest)
