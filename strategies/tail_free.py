"""Tail-free sampling: cut off the tail of the distribution where its curve has become flat.

Bricken (https://www.trentonbricken.com/Tail-Free-Sampling). The tail begins where the sorted probabilities hardly bend
any more: the sizes of their second differences are summed from the likeliest token on, and tokens are kept until the
sum exceeds `z` of the total. As in KoboldAI's code, the likeliest token always stays, the least likely never does, and
z = 1 turns the method off.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.sampled import Sampler, temperature_knob
from harness.engine import logit_warps
from harness.plugins.strategy import knob


@dataclass(frozen=True)
class TailFree(Sampler):
    """Identities: `z=1` is `temperature`, `z=0` is greedy except where the likeliest tokens lie on a line."""

    z: float = knob(0.95, "share of the bends of the curve that is kept", low=0, high=1,
                    sweep=(0.25, 0.5, 0.9, 0.95, 0.99))
    temperature: float = temperature_knob()

    paper: ClassVar[str] = "Bricken, www.trentonbricken.com/Tail-Free-Sampling"

    def kept(self) -> logit_warps.Warp:
        """Keep the tokens before the tail."""
        return logit_warps.tail_free(self.z)
