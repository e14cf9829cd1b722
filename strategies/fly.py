"""FLy: accept a rejected draft if the target's entropy is high and it accepts the drafts after it.

FLy 2025 (arXiv 2511.22972), as served by vLLM. A rejection stands unless the entropy of the `k` highest probabilities
is at least `entropy` nats and the exact rule accepts the next `window` drafts; the window is shortened to the drafts
there are. `over` names the method that drafts chains; longer ones than the default give it more to pardon.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.accept import Accept
from harness.decoding.lossy import fly
from harness.decoding.verified import Lossy
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class FLy(Lossy):
    """An entropy that no position reaches is exact."""

    over: str = knob("speculative:gamma=8", "exact strategy that drafts, with its knobs after ':' and separated by ';'")
    entropy: float = knob(0.3, "nats from which the target is unsure", low=0, high=1000, sweep=(0.1, 0.3, 0.6))
    k: int = knob(3, "tokens whose entropy counts", low=1, high=100000)
    window: int = knob(6, "drafts after it that must be right", low=1, high=64, sweep=(2, 4, 6))

    paper: ClassVar[str] = "FLy 2025, arXiv 2511.22972"

    def rule(self) -> Accept:
        """Rejections are confirmed by what comes after."""
        return fly(self.entropy, self.k, self.window, sure=self.sure)
