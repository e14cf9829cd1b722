"""Ensemble acceptance: verify drafts with a mixture of target and draft model, so that more are accepted.

The static form of DIVERSE, as in transformers' `assistant_ensemble_weight`. Drafts are verified by v = `weight`·p +
(1 − `weight`)·q, and the token after the last one comes from p. Weight 1 is exact. `over` names the method that drafts;
`temperature` and `p` set the distribution of p and q.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.accept import Accept
from harness.decoding.lossy import ensemble
from harness.decoding.verified import Lossy
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class EnsembleAcceptance(Lossy):
    """The drafted tokens of a sampled chain have the mixture's distribution."""

    weight: float = knob(0.8, "of the target in the mixture; 1 is exact", low=0, high=1, sweep=(0.7, 0.8, 0.9))

    paper: ClassVar[str] = "DIVERSE, as in transformers (assistant_ensemble_weight)"
    compares: ClassVar[bool] = True

    def rule(self) -> Accept:
        """Accept as in the exact rule with v instead of p."""
        return ensemble(self.weight, sure=self.sure)
