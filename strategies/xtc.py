"""XTC, exclude top choices: now and then leave out all likely tokens but the least likely of them.

p-e-w 2024 (text-generation-webui, pull request 6335). With probability `probability` at each position, tokens of
probability `threshold` or more are left out, except the least likely one; where only one token is that likely, nothing
changes. The threshold refers to the distribution before temperature, as in llama.cpp. With `protect`, a position where
EOS would be left out stays as it is, or texts would hardly end; the original protects line breaks too, llama.cpp
nothing. Below a threshold of about 0.02 what remains is mostly noise.

The coin of a position comes from the random stream of the sample and the position alone, so a draft and the target
that verifies it see the same coin.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from harness.decoding.sampled import Sampler, temperature_knob
from harness.engine import logit_warps
from harness.engine.random_stream import Stream
from harness.errors import UserError
from harness.plugins.native import NativeCall, NativeOptions
from harness.plugins.strategy import Request, knob

COINS = 1 << 40  # the substream of position 0, beyond those of a prompt's samples


@dataclass(frozen=True)
class XTC(Sampler):
    """Identities: `probability=0` and a `threshold` above 0.5 are `temperature`."""

    probability: float = knob(0.5, "how often top choices are left out", low=0, high=1, sweep=(0.1, 0.3, 0.5, 1.0))
    threshold: float = knob(0.1, "minimum probability of a top choice", low=0, high=1, sweep=(0.05, 0.1, 0.15, 0.2))
    protect: bool = knob(True, "never leave out EOS", sweep=(True, False))
    temperature: float = temperature_knob()

    paper: ClassVar[str] = "p-e-w 2024, github.com/oobabooga/text-generation-webui/pull/6335"

    def __post_init__(self) -> None:
        """Raise `UserError` at temperature 0, unless there is no coin to toss."""
        super().__post_init__()
        if not self.temperature and 0 < self.probability < 1:
            raise UserError("xtc is random, so temperature 0 means nothing: take a higher one, or probability=1.")

    def warp(self, request: Request) -> logit_warps.Warp:
        """Leave out top choices where the coin says so, then divide by the temperature."""
        heat = logit_warps.temperature(self.temperature)
        if not self.probability:
            return heat
        cut = logit_warps.xtc(self.threshold, request.eos if self.protect else ())
        return logit_warps.compose(tossed(cut, self.probability, request.stream), heat)

    def native(self, options: NativeOptions) -> NativeCall:
        """Warp the logits inside the engine at temperature 0 too."""
        return replace(super().native(options), warps=True)


def tossed(warp: logit_warps.Warp, probability: float, stream: Stream) -> logit_warps.Warp:
    """Apply `warp` with this probability to each row; rows at the same position have the same coin."""
    def toss(logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        heads = [stream.branch(COINS + len(sequences[row])).coin(probability) for row in range(len(logits))]
        if not any(heads):
            return logits
        return warp(logits, sequences).where(torch.tensor(heads, device=logits.device)[:, None], logits)
    return toss
