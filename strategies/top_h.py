"""Top-H sampling: draw from the likeliest tokens that carry a given share of the entropy.

Potraghloo et al. 2025 (arXiv 2509.02510), as in transformers: of the 100 likeliest tokens, those whose terms
−p log p add up to `share` of the entropy of the 100; the likeliest always stays.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.sampled import Sampler, temperature_knob
from harness.engine import logit_warps
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class TopH(Sampler):
    """Identity: `share=0` is greedy."""

    share: float = knob(0.4, "share of the entropy that is kept", low=0, high=1, sweep=(0.2, 0.3, 0.4, 0.6, 0.8))
    temperature: float = temperature_knob()

    paper: ClassVar[str] = "Potraghloo et al. 2025, arXiv 2509.02510"

    def kept(self) -> logit_warps.Warp:
        """Keep the likeliest tokens up to that share of the entropy."""
        return logit_warps.top_h(self.share)
