"""Presence and frequency penalties: subtract a fixed amount from the logits of generated tokens, in any strategy.

As in the OpenAI API and vLLM: `presence` is subtracted once for a token that has been generated and `frequency` for
every time that it has been. The prompt does not count. Written `top_p+frequency_penalty:frequency=0.5`; alone it is
over greedy.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding import penalty
from harness.decoding.penalty import Penalty
from harness.engine.logit_warps import Warp
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class FrequencyPenalty(Penalty):
    """Identity: `presence=0,frequency=0` is the other strategy."""

    presence: float = knob(0.0, "taken off once; less than 0 favours repeats", low=-2, high=2, sweep=(0.0, 0.5, 1.0))
    frequency: float = knob(0.5, "taken off every time; less than 0 favours repeats", low=-2, high=2,
                            sweep=(0.0, 0.1, 0.5, 1.0, 2.0))

    paper: ClassVar[str] = "OpenAI API; vLLM, arXiv 2309.06180"

    def warp(self, start: int) -> Warp:
        """Return the logit warp of both penalties on the tokens generated after `start`."""
        return penalty.frequency(self.presence, self.frequency, start)
