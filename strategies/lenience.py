"""Lenience: accept drafts as if the draft model's probabilities were lower than they are.

Leviathan et al. 2022 (arXiv 2211.17192, §A.5). A draft is accepted with min(1, p/(l·q)), l = `share`; at temperature 0
if it has at least l times the highest probability. 1 is exact; less shifts probability to the draft model's tokens.
`over` names the method that drafts.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.accept import Accept
from harness.decoding.lossy import lenience
from harness.decoding.verified import Lossy
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class Lenience(Lossy):
    """The probability of every token is at most p/l."""

    share: float = knob(0.8, "share of q that p must reach; 1 is exact", low=0, high=1, sweep=(0.5, 0.8, 1.0))

    paper: ClassVar[str] = "Leviathan et al. 2022, arXiv 2211.17192"

    def rule(self) -> Accept:
        """Accept with min(1, p/(l·q))."""
        return lenience(self.share, sure=self.sure)
