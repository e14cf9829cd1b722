"""Dynamic temperature: sample hotter where the model is unsure and cooler where it is sure.

kalomaze, as in llama.cpp. The temperature runs from `temperature` − `spread`, at least 0, to `temperature` +
`spread`, in proportion to the entropy over its maximum to the power of `exponent`. The entropy is that of the model's
whole distribution; where llama.cpp cuts tokens off before, it is that of the rest. Its spread is 0 by default, which is
off; 0.5 is ours.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from harness.decoding.sampled import Sampler, temperature_knob
from harness.engine import logit_warps
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class DynamicTemperature(Sampler):
    """Identity: `spread=0` is `temperature`."""

    spread: float = knob(0.5, "how far the temperature may go up or down", low=0, high=10, sweep=(0.25, 0.5, 1.0))
    exponent: float = knob(1.0, "of the relative entropy", low=0.01, high=10, sweep=(0.5, 1.0, 2.0))
    temperature: float = temperature_knob()

    paper: ClassVar[str] = "kalomaze, github.com/ggml-org/llama.cpp"

    def warp(self, request: Request) -> logit_warps.Warp:
        """Divide by a temperature that depends on the entropy; at `temperature` 0 change nothing."""
        low, high = max(0.0, self.temperature - self.spread), self.temperature + self.spread

        def heat(entropy: Tensor, size: Tensor) -> Tensor:
            return low + (high - low) * (entropy / size.log().clamp(min=1e-9)) ** self.exponent
        if not self.temperature or not self.spread:
            return logit_warps.temperature(self.temperature)
        return logit_warps.by_entropy(heat)
