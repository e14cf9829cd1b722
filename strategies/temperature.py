"""Ancestral sampling: sample each token from the model's distribution at a temperature.

Ackley et al., A Learning Algorithm for Boltzmann Machines, 1985. `temperature` divides the logits; 1 changes nothing.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from harness.decoding.sampled import Sampler, temperature_knob


@dataclass(frozen=True)
class Temperature(Sampler):
    """Identity: 0 is greedy."""

    temperature: float = temperature_knob()

    paper: ClassVar[str] = "Ackley et al. 1985"

    def at(self, temperature: float) -> "Temperature":
        """Return the strategy at the task's temperature, unless the knob was set."""
        return replace(self, temperature=temperature) if self.temperature == type(self).temperature else self
