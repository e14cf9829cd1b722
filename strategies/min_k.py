"""Min-k sampling: keep the tokens before the steepest fall of the sorted logits.

arXiv 2604.11012 (algorithm 1). The fall after rank i is the difference of two neighbouring logits, divided by i and by
the range R from the largest to the smallest. Tokens up to the steepest fall are kept, and always the first
⌊`tau`/R⌋. Logits are taken before temperature, so that it changes only how the kept tokens are drawn. R runs to the
smallest finite logit, so the same `tau` means different things for different vocabularies. The authors' own code was
not read: what is not in the paper follows a port for vLLM.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.sampled import Sampler, temperature_knob
from harness.engine import logit_warps
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class MinK(Sampler):
    """Identities: a `tau` of V times the range keeps all, as `temperature`; with 0 only the steepest fall counts."""

    tau: float = knob(3.0, "least number of kept tokens times the range of the logits", low=0, high=1e9,
                      sweep=(0.0, 1.0, 3.0, 10.0))
    temperature: float = temperature_knob()

    paper: ClassVar[str] = "arXiv 2604.11012"

    def warp(self, request: Request) -> logit_warps.Warp:
        """Mask by the logits of the model, then divide by the temperature; the likeliest token always stays."""
        return logit_warps.compose(logit_warps.min_k(self.tau), logit_warps.temperature(self.temperature)) \
            if self.temperature else logit_warps.identity
