"""No-repeat n-gram: forbid tokens that complete an n-gram which already occurs in the sequence, in any strategy.

Paulus et al. 2017 (arXiv 1705.04304, §2.5) for trigrams. `n` is the size and `prompt` sets whether the prompt's
n-grams count, as they do in transformers. If no token would be left, the rule is dropped for that step. Over a search
the tokens left share the whole probability, as in transformers with `renormalize_logits=True`; its default, without,
lowers the score of every beam that had a token forbidden. Written `beam+no_repeat_ngram:n=3`; alone it is over greedy.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding import penalty
from harness.decoding.penalty import Penalty
from harness.engine.logit_warps import Warp
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class NoRepeatNgram(Penalty):
    """Identity: `n=0` is the other strategy."""

    n: int = knob(3, "n-gram size; 0 forbids nothing", low=0, high=64, sweep=(2, 3, 4), also="no_repeat_ngram_size")
    prompt: bool = knob(True, "whether the prompt's n-grams count", sweep=(True, False))

    paper: ClassVar[str] = "Paulus et al. 2017, arXiv 1705.04304"

    def warp(self, start: int) -> Warp:
        """Return the logit warp, from the start of the sequence or of the output."""
        return penalty.no_repeat_ngram(self.n, 0 if self.prompt else start)
