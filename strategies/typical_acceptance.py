"""Typical acceptance: accept a draft unless its probability is below a threshold that falls with the entropy.

Cai et al. 2024, Medusa (arXiv 2401.10774). A draft passes when p > min(`epsilon`, `delta`·exp(−entropy)); the paper
ties delta to the root of epsilon. At temperature 0 only the likeliest token passes, so it is then exact, and the
default temperature is one at which it is not. `over` names the drafter.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.accept import Accept
from harness.decoding.lossy import typical
from harness.decoding.verified import Lossy
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class TypicalAcceptance(Lossy):
    """Drafts pass by their own probability, not beside q."""

    temperature: float = knob(0.7, "0 is greedy", low=0, high=10, sweep=(0.0, 0.7, 1.0))
    epsilon: float = knob(0.09, "probability that always passes", low=0, high=1, sweep=(0.05, 0.09, 0.15, 0.2, 0.3))
    delta: float = knob(0.3, "share of exp(−entropy) that passes", low=0, high=10, sweep=(0.22, 0.3, 0.39, 0.45, 0.55))

    paper: ClassVar[str] = "Cai et al. 2024, arXiv 2401.10774"

    def rule(self) -> Accept:
        """Above a threshold that falls with the target's entropy."""
        return typical(self.epsilon, self.delta, sure=self.sure)
