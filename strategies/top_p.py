"""Nucleus sampling: draw from the smallest set of likeliest tokens with a given mass.

Holtzman et al., The Curious Case of Neural Text Degeneration, 2019 (arXiv 1904.09751, §3.1).
`p` is the mass of the nucleus, `temperature` divides the logits before it is cut.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.sampled import Sampler, temperature_knob
from harness.engine import logit_warps
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class TopP(Sampler):
    """Identity: `p=1` is `temperature`."""

    p: float = knob(0.95, "mass of the nucleus; 1 keeps every token", low=0, high=1, sweep=(0.8, 0.9, 0.92, 0.95, 0.98),
                    also="top_p")
    temperature: float = temperature_knob()

    paper: ClassVar[str] = "Holtzman et al. 2019, arXiv 1904.09751"

    def kept(self) -> logit_warps.Warp:
        """Keep the nucleus."""
        return logit_warps.top_p(self.p)
