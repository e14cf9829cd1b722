"""Top-k sampling: draw from the k likeliest tokens.

Fan et al., Hierarchical Neural Story Generation, 2018 (arXiv 1805.04833).
`k` tokens are kept; `temperature` divides the logits before.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.sampled import Sampler, temperature_knob
from harness.engine import logit_warps
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class TopK(Sampler):
    """Identities: `k=1` is greedy, `k` of the vocabulary or more is `temperature`."""

    k: int = knob(10, "tokens that may be drawn", low=1, high=1_000_000, sweep=(5, 10, 20, 50, 100), also="top_k")
    temperature: float = temperature_knob()

    paper: ClassVar[str] = "Fan et al. 2018, arXiv 1805.04833"

    def kept(self) -> logit_warps.Warp:
        """Keep the `k` likeliest tokens."""
        return logit_warps.top_k(self.k)
