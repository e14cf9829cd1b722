"""Stochastic beam search: beam search over noisy log p, which samples sequences without replacement.

Kool et al. 2019 (arXiv 1903.06059, algorithm 1). Every hypothesis has a height, its log p plus Gumbel noise, and its
children's heights are sampled so that their maximum is its own; the `width` highest survive, finished ones included.
Sample i is the i-th sequence drawn without replacement, for any `width` above i. `temperature` divides
the logits before log p is summed, which changes the distribution.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from harness.decoding.search import Hypothesis, Search, Slots, divisor, walk
from harness.engine.random_stream import Stream, gumbel, truncated
from harness.engine.session import Session
from harness.plugins.strategy import Request, knob


class Drawn(NamedTuple):
    """A sequence and its `weight`, model probability over the probability of being drawn.

    The sum of weight · f(sequence) over a sample is an unbiased estimate of the mean of f (Kool et al., eq. 10).
    """

    hypothesis: Hypothesis
    weight: float


@dataclass(frozen=True)
class StochasticBeam(Search):
    """`width=1` is plain sampling; with as many beams as there are sequences it returns them all."""

    width: int = knob(4, "sequences sampled", low=1, high=256, sweep=(2, 4, 8, 16), also="num_beams")
    temperature: float = knob(1.0, "divides the logits", low=0.01, high=10, sweep=(0.1, 0.3, 0.5, 0.8, 1.0))

    paper: ClassVar[str] = "Kool et al. 2019, arXiv 1903.06059"

    def search(self, session: Session, request: Request) -> list[Hypothesis]:
        """Return the sequences in the order of sampling; `score` is the height."""
        slots = Perturbed.start(self.width, self.temperature, request)
        walk(session, [slots])
        return slots.pool

    def weighted(self, session: Session, request: Request) -> list[Drawn]:
        """Return the sequences with weights, by a search with one beam more.

        Its height κ is the threshold of being drawn, which has the probability 1 − exp(−exp(log p − κ)).
        """
        return weighed(replace(self, width=self.width + 1).search(session, request), self.width)


def weighed(hypotheses: Sequence[Hypothesis], width: int) -> list[Drawn]:
    """Weight the first `width` results of a search with one beam more; without a further one by probability alone."""
    threshold = hypotheses[width].score if len(hypotheses) > width else -math.inf
    return [Drawn(h, math.exp(h.log_p) / included(h.state, threshold)) for h in hypotheses[:width]]


def included(log_p: float, threshold: float) -> float:
    """Return the probability that log p plus Gumbel noise is above the threshold."""
    return -math.expm1(-math.exp(min(log_p - threshold, 700.0)))


@dataclass
class Perturbed(Slots):
    """Beams scored by height, in float64; `state` is log p after temperature."""

    temperature: float = 1.0

    @classmethod
    def start(cls, width: int, temperature: float, request: Request) -> "Perturbed":
        """Start from one empty hypothesis of log p 0 plus noise."""
        root = Hypothesis(score=float(gumbel(request.common, 1)), state=0.0)
        return cls(width, divisor("none", 0.0), "false", request, live=[root], temperature=temperature)

    def scored(self, log_p: Tensor) -> Tensor:
        """Return (b, V) the heights of all children."""
        self._log_q = torch.tensor([h.state for h in self.live], dtype=torch.float64, device=log_p.device)[:, None] \
            + (log_p.double() / self.temperature).log_softmax(-1)
        return child_heights(self._log_q, [h.score for h in self.live], self.request.common)

    def child(self, row: int, token: int, score: float, log_p: float) -> Hypothesis:
        """Return the child with its own log p after temperature."""
        return super().child(row, token, score, log_p)._replace(state=float(self._log_q[row, token]))


def child_heights(log_q: Tensor, height: Sequence[float], stream: Stream) -> Tensor:
    """Sample heights (b, V) of children of log p `log_q` (b, V); the maximum of a row is its parent's `height` (b,)."""
    noise = gumbel(stream, log_q.numel(), log_q.device).view_as(log_q)
    return truncated(log_q + noise, torch.tensor(height, dtype=torch.float64, device=log_q.device))
