"""Entropy-based temperature (EDT): lower the temperature where the model is sure.

Zhang et al. 2024 (arXiv 2403.14541). The temperature is `temperature` · `base`^(`theta`/H) for an entropy of H nats:
near 0 where the model is sure, and near `temperature` where it is not. The paper's base is 0.8, and it tunes theta for
each task; the default of 1 is ours. The formula was checked in two ports, not in the authors' code.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from harness.decoding.sampled import Sampler, temperature_knob
from harness.engine import logit_warps
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class EntropyTemperature(Sampler):
    """Identities: `theta=0` and `base=1` are `temperature`."""

    theta: float = knob(1.0, "how much of the temperature a low entropy takes away", low=0, high=100,
                        sweep=(0.1, 0.5, 1.0, 2.0))
    base: float = knob(0.8, "factor at which the temperature starts to fall", low=0.01, high=1, sweep=(0.8,))
    temperature: float = temperature_knob()

    paper: ClassVar[str] = "Zhang et al. 2024, arXiv 2403.14541"

    def warp(self, request: Request) -> logit_warps.Warp:
        """Divide by a temperature that depends on the entropy; at `temperature` 0 change nothing."""
        def heat(entropy: Tensor, size: Tensor) -> Tensor:
            return self.temperature * self.base ** (self.theta / entropy.clamp(min=1e-9))
        if not self.temperature or not self.theta or self.base == 1:
            return logit_warps.temperature(self.temperature)
        return logit_warps.by_entropy(heat)
