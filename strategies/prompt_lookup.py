"""Prompt lookup: draft what followed the same tokens earlier in the sequence.

Saxena 2023 (github.com/apoorvumang/prompt-lookup-decoding). No draft model: the last `max_ngram` tokens are looked up
in prompt and output, and the `length` tokens after the match are the draft. `latest` takes the
newest match instead of the earliest. `variant` "longest" also drafts fewer tokens than `length`; "original" takes only
matches that `length` tokens follow and that end before the n-gram begins (Saxena's rule); "spec_bench" also
drafts token 100 without a match, so that each step verifies a draft. `temperature` and `p` set the distribution,
which is exact.

"longest" is also what transformers and vLLM draft. transformers: `length` is prompt_lookup_num_tokens and `max_ngram`
max_matching_ngram_size, 2 by default; it ends a draft before EOS, where the sequence ends anyway, and before tokens
that a logits processor forbids. vLLM's ngram: `length` is num_speculative_tokens, `max_ngram` and `min_ngram` are
prompt_lookup_max and prompt_lookup_min, both 5 by default.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.verified import Verified
from harness.engine.session import Session
from harness.errors import UserError
from harness.plugins.strategy import Request, knob
from strategies.drafters.ngram import NgramLookup
from strategies.drafters.source_first import TextDrafter, with_source

FILLER = 100  # the draft of Spec-Bench without a match


@dataclass(frozen=True)
class PromptLookup(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    max_ngram: int = knob(3, "longest n-gram looked up, in tokens", low=1, high=64, sweep=(1, 2, 3, 4, 5),
                          also="max_matching_ngram_size")
    length: int = knob(10, "tokens drafted after a match", low=1, high=256, sweep=(3, 5, 10, 20, 40),
                       also="prompt_lookup_num_tokens")
    latest: bool = knob(False, "take the latest match instead of the earliest", sweep=(False, True))
    min_ngram: int = knob(1, "shortest n-gram looked up, in tokens", low=1, high=64, sweep=(1, 2, 3))
    variant: str = knob("longest", "which matches count", choices=("longest", "original", "spec_bench"),
                        sweep=("longest", "original", "spec_bench"))

    paper: ClassVar[str] = "Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding"

    def __post_init__(self) -> None:
        """Refuse a shortest n-gram that is longer than the longest."""
        super().__post_init__()
        if self.min_ngram > self.max_ngram:
            raise UserError(f"prompt_lookup: min_ngram={self.min_ngram} is more than max_ngram={self.max_ngram}.")

    def drafter(self, session: Session, request: Request) -> TextDrafter:
        """Return the lookup in prompt and output."""
        last = session.engine.vocab - 1
        return with_source(session, NgramLookup(
            self.max_ngram, self.length, self.latest, self.min_ngram, self.variant != "longest",
            [min(FILLER, last)] if self.variant == "spec_bench" else ()))
