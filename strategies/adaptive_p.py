"""Adaptive-p: draw tokens whose probability is near a target, which feedback keeps on average.

MrJackSpade 2025, as in llama.cpp (pull request 17927). Each step aims at a probability: twice the `target` minus the
decaying mean of the probabilities of the tokens drawn so far, which starts at the target. A token's new logit falls
with the distance of its probability from the aim, first as a square and then as a line. Tokens of less than `guard`
times the highest probability are cut off before, as in `min_p`: with a large vocabulary and a low aim the tail would
win otherwise.

With `protect`, a step at which EOS is the likeliest token is drawn from the model's own distribution: the end of an
answer has a probability near 1, which is far from most targets. llama.cpp has no such exception.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.decoding.accept import rejection
from harness.decoding.loop import one_by_one
from harness.engine import logit_warps
from harness.engine.session import Session
from harness.plugins.strategy import Guarantee, Request, Strategy, knob

PEAK, SHARPNESS, WIDTH = 5.0, 10.0, 0.3  # as in llama.cpp; the author's notes have a width of 0.2


@dataclass(frozen=True)
class AdaptiveP(Strategy):
    """Identity: a negative `target` is `min_p` with the guard, and with `guard=0` `temperature`."""

    target: float = knob(0.5, "mean probability of drawn tokens; below 0 is off", low=-1, high=1,
                         sweep=(0.3, 0.4, 0.5, 0.6, 0.7))
    decay: float = knob(0.9, "weight of the past; 1/(1 − decay) tokens are remembered", low=0, high=0.99,
                        sweep=(0.5, 0.7, 0.9, 0.99))
    guard: float = knob(0.05, "minimum share of the likeliest token's probability", low=0, high=1,
                        sweep=(0.02, 0.05, 0.1))
    protect: bool = knob(True, "draw from the model's distribution where EOS is the likeliest", sweep=(True, False))

    paper: ClassVar[str] = "MrJackSpade 2025, github.com/ggml-org/llama.cpp/pull/17927"
    family: ClassVar[str] = "sampling"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one drawn token a step."""
        guard = logit_warps.min_p(self.guard)
        aimed = Aimed(self, request.eos if self.protect else ()).warp if self.target >= 0 else logit_warps.identity
        return one_by_one(session, rejection, request, logit_warps.compose(guard, aimed))


class Aimed:
    """The state of one sequence: the decaying sum of drawn tokens' probabilities, and that of their weights."""

    def __init__(self, knobs: AdaptiveP, protected: Collection[int] = ()) -> None:
        self.knobs, self.protected = knobs, sorted(protected)
        self.weights = 1 / (1 - knobs.decay)
        self.sum: Tensor | float = knobs.target * self.weights
        self.before: Tensor | None = None

    def warp(self, logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Update the sums by the last token, and return logits (1, V) that are highest at the probability aimed at."""
        if self.before is not None:
            self.sum = self.before[sequences[0][-1]] + self.knobs.decay * self.sum
            self.weights = 1 + self.knobs.decay * self.weights
        self.before = torch.softmax(logits[0].double(), -1)
        aim = torch.as_tensor(2 * self.knobs.target - self.sum / self.weights).clamp(0, 1)
        far = (self.before - aim).abs() / WIDTH
        bent = (PEAK - SHARPNESS * far.square() / (1 + far)).float().where(logits.isfinite(), logits)
        ends = torch.tensor(self.protected, dtype=torch.long, device=logits.device)
        return logits.where(torch.isin(logits.argmax(-1, keepdim=True), ends), bent)
