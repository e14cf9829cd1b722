"""KL acceptance: accept any draft where the distributions of draft model and target are close enough.

The rule of arXiv 2601.04766, which needs no training. A draft that the exact rule rejects is accepted when KL(q‖p) is
below `kappa` nats (direction and threshold are this harness's choice). 0 is exact. `over` names the method that drafts.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.accept import Accept
from harness.decoding.lossy import kl
from harness.decoding.verified import Lossy
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class KLAcceptance(Lossy):
    """The divergence depends on the position, not on the drafted token."""

    kappa: float = knob(0.1, "divergence in nats below which all drafts are accepted; 0 is exact", low=0, high=100,
                        sweep=(0.03, 0.1, 0.3, 1.0, 3.0))

    paper: ClassVar[str] = "arXiv 2601.04766"
    compares: ClassVar[bool] = True

    def rule(self) -> Accept:
        """Accept by the exact rule, or where the divergence is small."""
        return kl(self.kappa, sure=self.sure)
