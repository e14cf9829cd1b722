"""Typical acceptance: accept a draft unless its probability is below a threshold that falls with the entropy.

Cai et al. 2024, Medusa (arXiv 2401.10774). A draft is accepted when p > min(`epsilon`, `delta`·exp(−entropy)); the
paper sets delta to the root of epsilon. At temperature 0 only the likeliest token is accepted, which is exact, so the
default temperature is above 0. `over` names the drafter.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.accept import Accept
from harness.decoding.lossy import typical
from harness.decoding.verified import Lossy
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class TypicalAcceptance(Lossy):
    """Acceptance depends on p alone, not on q."""

    temperature: float = knob(0.7, "0 is greedy", low=0, high=10, sweep=(0.0, 0.7, 1.0))
    epsilon: float = knob(0.09, "probability always accepted", low=0, high=1, sweep=(0.05, 0.09, 0.15, 0.2, 0.3))
    delta: float = knob(0.3, "accepted share of exp(−entropy)", low=0, high=10, sweep=(0.22, 0.3, 0.39, 0.45, 0.55))

    paper: ClassVar[str] = "Cai et al. 2024, arXiv 2401.10774"

    def rule(self) -> Accept:
        """Accept above a threshold that falls with the target's entropy."""
        return typical(self.epsilon, self.delta, sure=self.sure)
