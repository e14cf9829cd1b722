"""Ancestral sampling: draw each token from the model's own law, flattened or sharpened by a temperature.

Ackley et al., A Learning Algorithm for Boltzmann Machines, 1985. `temperature` divides the logits; 1 is the model.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from harness.decoding import warp
from harness.decoding.sampled import Sampler, heat


@dataclass(frozen=True)
class Temperature(Sampler):
    """Identity: 0 is greedy."""

    temperature: float = heat()

    paper: ClassVar[str] = "Ackley et al. 1985"

    def kept(self) -> warp.Warp:
        """Every token."""
        return warp.identity

    def at(self, temperature: float) -> "Temperature":
        """The task's temperature, unless the knob was turned."""
        return replace(self, temperature=temperature) if self.temperature == type(self).temperature else self
