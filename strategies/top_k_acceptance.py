"""Top-k acceptance: keep a draft that is among the few tokens the target finds likeliest.

Stern et al. 2018, blockwise parallel decoding (arXiv 1811.03115, §5). A draft passes when it is one of the `k`
likeliest tokens, or with `criterion` "distance" when its id is within `epsilon` of the likeliest one's, for
vocabularies that are a scale. At least `least` tokens are written a step, if drafts go that far. `over` names the
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
    """With k = 1 and temperature 0 it is exact."""

    criterion: str = knob("top_k", "what passes", choices=("top_k", "distance"))
    k: int = knob(2, "likeliest tokens that pass", low=1, high=100000, sweep=(1, 2, 3, 5))
    epsilon: int = knob(2, "distance of ids that passes", low=0, high=100000)
    least: int = knob(1, "minimum tokens committed per step", low=1, high=64, sweep=(1, 2))

    paper: ClassVar[str] = "Stern et al. 2018, arXiv 1811.03115"

    def rule(self) -> Accept:
        """By rank, or by distance."""
        return (top_k(self.k, self.least, sure=self.sure) if self.criterion == "top_k"
                else distance(self.epsilon, self.least, sure=self.sure))
