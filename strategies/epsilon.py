"""Epsilon sampling: leave out tokens that are less probable than a threshold.

Hewitt et al., Truncation Sampling as Language Model Desmoothing, 2022 (arXiv 2210.15191, §4.1).
`least` is the threshold; the likeliest token always stays.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.sampled import Sampler, temperature_knob
from harness.engine import logit_warps
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class Epsilon(Sampler):
    """Identities: `least=0` is `temperature`, `least=1` is greedy except for ties."""

    least: float = knob(3e-4, "minimum probability of a token", low=0, high=1, sweep=(3e-4, 6e-4, 9e-4, 2e-3, 4e-3),
                        also="epsilon_cutoff")
    temperature: float = temperature_knob()

    paper: ClassVar[str] = "Hewitt et al. 2022, arXiv 2210.15191"

    def kept(self) -> logit_warps.Warp:
        """Keep the tokens above the threshold."""
        return logit_warps.epsilon(self.least)
