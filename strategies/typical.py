"""Locally typical sampling: sample from the tokens whose surprisal is nearest to the entropy.

Meister et al. 2022 (arXiv 2202.00666). Tokens with a total probability of `mass` are kept, those of a surprisal nearest
to the entropy; the likeliest token may be left out. Ties are broken by id, where transformers keeps all.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.sampled import Sampler, temperature_knob
from harness.engine import logit_warps
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class Typical(Sampler):
    """Identity: `mass=1` is `temperature`."""

    mass: float = knob(0.95, "probability that is kept", low=0, high=1, sweep=(0.2, 0.9, 0.92, 0.95), also="typical_p")
    temperature: float = temperature_knob()

    paper: ClassVar[str] = "Meister et al. 2022, arXiv 2202.00666"

    def kept(self) -> logit_warps.Warp:
        """Keep the typical set."""
        return logit_warps.typical(self.mass)
