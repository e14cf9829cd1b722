"""Synthetic acceptance: accept drafts at given rates whatever they are, to measure the cost of a step.

As in vLLM (`rejection_sample_method="synthetic"`). `rates` are the chances of the first, second, … draft given that
those before it were accepted, such as "0.8;0.7"; the last rate holds for all later drafts. The output is meaningless:
this is for benchmarks only. `over` names the method that drafts.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.accept import Accept
from harness.decoding.lossy import synthetic
from harness.decoding.verified import Lossy
from harness.errors import UserError
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class SyntheticAcceptance(Lossy):
    """For benchmarks only: tokens per step no longer depend on the models."""

    rates: str = knob("0.8", "probability of each draft, given those before it", sweep=("0.5", "0.7", "0.8", "0.9"))

    paper: ClassVar[str] = "vLLM, docs.vllm.ai (synthetic rejection sampling)"

    def __post_init__(self) -> None:
        """Refuse rates that are not probabilities."""
        super().__post_init__()
        self._chances()

    def rule(self) -> Accept:
        """Accept every draft with its rate."""
        return synthetic(self._chances(), sure=self.sure)

    def _chances(self) -> list[float]:
        try:
            chances = [float(rate) for rate in self.rates.split(";")]
        except ValueError:
            chances = [-1.0]
        if not all(0 <= chance <= 1 for chance in chances):
            raise UserError(f"{self.name}: rates must be numbers from 0 to 1 such as 0.8;0.7, not '{self.rates}'.")
        return chances
