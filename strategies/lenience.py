"""Lenience: accept drafts as if the draft model's probabilities were lower than they are.

Leviathan et al. 2022 (arXiv 2211.17192, §A.5). A draft is kept with min(1, p/(l·q)), l = `share`; at temperature 0
when it has at least l times the highest probability. 1 is exact; less moves mass to what the draft model prefers.
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
    """No token comes out with more than p/l."""

    share: float = knob(0.8, "of q that p must reach; 1 is exact", low=0, high=1, sweep=(0.5, 0.8, 1.0))

    paper: ClassVar[str] = "Leviathan et al. 2022, arXiv 2211.17192"

    def rule(self) -> Accept:
        """min(1, p/(l·q))."""
        return lenience(self.share, sure=self.sure)
