"""FLy: accept a rejected draft if the target's entropy is high and it accepts the drafts after it.

FLy 2025 (arXiv 2511.22972), as served by vLLM. A rejection is overruled if the entropy of the `k` highest probabilities
is at least `entropy` nats and the exact rule accepts the next `window` drafts, or as many as
there are. `over` names the method that drafts chains; longer chains give the rule more to accept.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.accept import Accept
from harness.decoding.lossy import fly
from harness.decoding.verified import Lossy
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class FLy(Lossy):
    """Exact when `entropy` is higher than that of any position."""

    over: str = knob("speculative:gamma=8", "exact strategy that drafts, with its knobs after ':' and separated by ';'")
    entropy: float = knob(0.3, "minimum entropy of an unsure target, in nats", low=0, high=1000, sweep=(0.1, 0.3, 0.6))
    k: int = knob(3, "tokens whose entropy counts", low=1, high=100000)
    window: int = knob(6, "drafts after the rejected one that must be accepted", low=1, high=64, sweep=(2, 4, 6))

    paper: ClassVar[str] = "FLy 2025, arXiv 2511.22972"

    def rule(self) -> Accept:
        """Accept a rejected draft if the target is unsure and accepts the drafts after it."""
        return fly(self.entropy, self.k, self.window, sure=self.sure)
