"""Near-best acceptance: accept a draft that the target ranks high and finds nearly as likely as its best token.

Xia et al. 2022, GAD++ (arXiv 2203.16487). A draft is accepted when it is among the `beta` likeliest tokens and its
log-probability is within `tau` of the highest. `over` names the method that drafts.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.accept import Accept
from harness.decoding.lossy import near_best
from harness.decoding.verified import Lossy
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class NearBestAcceptance(Lossy):
    """Exact with `beta=1` and `temperature=0`."""

    beta: int = knob(3, "number of likeliest tokens that may be accepted", low=1, high=100000, sweep=(1, 3, 5))
    tau: float = knob(1.0, "maximum gap in nats to the likeliest token", low=0, high=100, sweep=(0.5, 1.0, 2.0, 5.0))

    paper: ClassVar[str] = "Xia et al. 2022, arXiv 2203.16487"

    def rule(self) -> Accept:
        """Accept by rank and by the gap of log-probabilities."""
        return near_best(self.beta, self.tau, sure=self.sure)
