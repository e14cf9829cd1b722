"""Top-k acceptance: accept a draft that is among the target's k likeliest tokens.

Stern et al. 2018, blockwise parallel decoding (arXiv 1811.03115, §5). A draft is accepted when it is one of the `k`
likeliest tokens, or with `criterion` "distance" when its id is within `epsilon` of the likeliest one's, for
ordinal vocabularies. At least `least` tokens are committed a step, if the draft is long enough. `over` names the
method that drafts.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.accept import Accept
from harness.decoding.lossy import distance, top_k
from harness.decoding.verified import Lossy
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class TopKAcceptance(Lossy):
    """Exact with `k=1` and `temperature=0`."""

    criterion: str = knob("top_k", "rule of acceptance", choices=("top_k", "distance"))
    k: int = knob(2, "number of likeliest tokens that are accepted", low=1, high=100000, sweep=(1, 2, 3, 5))
    epsilon: int = knob(2, "maximum distance of ids that is accepted", low=0, high=100000)
    least: int = knob(1, "minimum tokens committed per step", low=1, high=64, sweep=(1, 2))

    paper: ClassVar[str] = "Stern et al. 2018, arXiv 1811.03115"

    def rule(self) -> Accept:
        """Accept by rank, or by distance."""
        return (top_k(self.k, self.least, sure=self.sure) if self.criterion == "top_k"
                else distance(self.epsilon, self.least, sure=self.sure))
