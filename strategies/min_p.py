"""Min-p sampling: draw from the tokens that are not much less probable than the likeliest.

Nguyen et al. 2024 (arXiv 2407.01082). A token needs at least `share` times the highest probability: few tokens are
kept where the model is confident, many where it is not, so that texts stay readable at high temperatures.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.sampled import Sampler, temperature_knob
from harness.engine import logit_warps
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class MinP(Sampler):
    """Identities: `share=0` is `temperature`, `share=1` is greedy except for ties."""

    share: float = knob(0.1, "minimum share of the likeliest token's probability", low=0, high=1,
                        sweep=(0.01, 0.05, 0.1, 0.2, 0.3), also="min_p")
    temperature: float = temperature_knob()

    paper: ClassVar[str] = "Nguyen et al. 2024, arXiv 2407.01082"

    def kept(self) -> logit_warps.Warp:
        """Keep the tokens of at least `share` times the highest probability."""
        return logit_warps.min_p(self.share)
