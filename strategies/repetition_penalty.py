"""Repetition penalty: lower the logits of tokens that already occur in the sequence, in any strategy.

Keskar et al. 2019, CTRL (arXiv 1909.05858, §4.1). Positive logits of such tokens are divided by `penalty` and negative
ones multiplied, as in transformers and vLLM; the paper divides both. `prompt` sets whether the prompt's tokens count,
as they do there. Over a search the penalty acts on logits too, whereas transformers' beam search multiplies log p, so
their beams differ. Written `top_p+repetition_penalty:penalty=1.2`; alone it is over greedy.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding import penalty
from harness.decoding.penalty import Penalty
from harness.engine.logit_warps import Warp
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class RepetitionPenalty(Penalty):
    """Identity: `penalty=1` is the other strategy."""

    penalty: float = knob(1.2, "divides logits; 1 changes nothing, below 1 favours repeats", low=0.01, high=100,
                          sweep=(1.0, 1.05, 1.1, 1.2, 1.3, 1.5), also="repetition_penalty")
    prompt: bool = knob(True, "whether the prompt's tokens count", sweep=(True, False))

    paper: ClassVar[str] = "Keskar et al. 2019, arXiv 1909.05858"

    def warp(self, start: int) -> Warp:
        """Return the logit warp, from the start of the sequence or of the output."""
        return penalty.repetition(self.penalty, 0 if self.prompt else start)
