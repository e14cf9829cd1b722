"""Top-a sampling: leave out tokens that are less probable than a share of the highest probability squared.

BlinkDL, in the repository RWKV-LM. The threshold is `share` · (highest probability)²: where the model is sure it is
nearly that of `min_p`, and where it is unsure it falls faster, so that more tokens are kept.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.sampled import Sampler, temperature_knob
from harness.engine import logit_warps
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class TopA(Sampler):
    """Identity: `share=0` is `temperature`."""

    share: float = knob(0.2, "minimum probability over the square of the highest", low=0, high=1,
                        sweep=(0.05, 0.1, 0.2, 0.5, 1.0))
    temperature: float = temperature_knob()

    paper: ClassVar[str] = "BlinkDL, github.com/BlinkDL/RWKV-LM"

    def kept(self) -> logit_warps.Warp:
        """Keep the tokens above the threshold."""
        return logit_warps.top_a(self.share)
