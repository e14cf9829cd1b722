"""Quadratic sampling: lower each logit by the square of its distance from the largest.

kalomaze (text-generation-webui, "smoothing factor"). Near the largest logit the distribution gets flatter, far
from it tokens become very improbable, and nothing is cut off. `curve` above 1 replaces part of the square by a cube:
flatter at the top, steeper below. The effect depends on the scale of the logits, so the same `factor` means different
things for different models. There is no default in its source, where 0 turns it off; 0.2 is ours.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.sampled import Sampler, temperature_knob
from harness.engine import logit_warps
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class Quadratic(Sampler):
    """Identity: `factor=0` is `temperature`."""

    factor: float = knob(0.2, "weight of the squared distance; 0 is off", low=0, high=10,
                         sweep=(0.05, 0.1, 0.2, 0.3, 0.5, 1.0))
    curve: float = knob(1.0, "1 is a square, 3 a cube", low=1, high=3, sweep=(1.0, 1.5, 2.0, 3.0))
    temperature: float = temperature_knob()

    paper: ClassVar[str] = "kalomaze, github.com/oobabooga/text-generation-webui"

    def kept(self) -> logit_warps.Warp:
        """Bend the logits; every token can still be drawn."""
        return logit_warps.quadratic(self.factor, self.curve)
