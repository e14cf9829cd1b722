"""Top-n-sigma sampling: draw from the tokens whose logits are within n standard deviations of the largest.

Tang et al. 2024 (arXiv 2411.07641). The deviation is that of the logits of the whole vocabulary, so that the same
tokens are kept at every temperature.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.sampled import Sampler, temperature_knob
from harness.engine import logit_warps
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class TopNSigma(Sampler):
    """Identity: `n=0` is greedy except for ties."""

    n: float = knob(1.0, "standard deviations below the largest logit", low=0, high=100, sweep=(0.3, 0.5, 1.0, 1.5))
    temperature: float = temperature_knob()

    paper: ClassVar[str] = "Tang et al. 2024, arXiv 2411.07641"

    def kept(self) -> logit_warps.Warp:
        """Keep the tokens within `n` standard deviations of the largest logit."""
        return logit_warps.top_nsigma(self.n)
