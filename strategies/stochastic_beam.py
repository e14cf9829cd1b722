"""Stochastic beam search: beam search over noisy log p, which samples sequences without replacement.

Kool et al. 2019 (arXiv 1903.06059, algorithm 1). Every hypothesis has a height, its log p plus Gumbel noise, and its
children's heights are drawn so that the largest is its own; the `width` highest live on and finished ones keep their
place. Sample i is the i-th text drawn without replacement, whatever the number of beams below it. `temperature` divides
the logits before log p is summed, and so gives another distribution.
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
    """A text and its `weight`, model probability over the chance of being drawn at all.

    The sum of weight · f(text) over a sample is an unbiased estimate of the mean of f (Kool et al., eq. 10).
    """

    hypothesis: Hypothesis
    weight: float


@dataclass(frozen=True)
class StochasticBeam(Search):
    """`width=1` is plain sampling; with as many beams as there are texts it returns them all."""

    width: int = knob(4, "sequences sampled", low=1, high=256, sweep=(2, 4, 8, 16))
    temperature: float = knob(1.0, "divides the logits", low=0.01, high=10, sweep=(0.1, 0.3, 0.5, 0.8, 1.0))

    paper: ClassVar[str] = "Kool et al. 2019, arXiv 1903.06059"

    def search(self, session: Session, request: Request) -> list[Hypothesis]:
        """The texts in the order in which they are drawn; `score` is a text's height."""
        slots = Perturbed.planted(self.width, self.temperature, request)
        walk(session, [slots])
        return slots.pool

    def weighted(self, session: Session, request: Request) -> list[Drawn]:
        """The texts with weights, for which one beam more is searched.

        That one's height κ is what a text must pass to be drawn, which it does with 1 − exp(−exp(log p − κ)).
        """
        return weighed(replace(self, width=self.width + 1).search(session, request), self.width)


def weighed(found: Sequence[Hypothesis], width: int) -> list[Drawn]:
    """The first `width` texts of a search with one beam more; where there are no more texts, each counts as it is."""
    threshold = found[width].score if len(found) > width else -math.inf
    return [Drawn(h, math.exp(h.log_p) / included(h.state, threshold)) for h in found[:width]]


def included(log_p: float, threshold: float) -> float:
    """The chance that log p plus Gumbel noise passes the threshold."""
    return -math.expm1(-math.exp(min(log_p - threshold, 700.0)))


@dataclass
class Perturbed(Slots):
    """Beams scored by height, in float64; `state` is log p after temperature."""

    temperature: float = 1.0

    @classmethod
    def planted(cls, width: int, temperature: float, request: Request) -> "Perturbed":
        """One empty hypothesis of log p 0, with its noise."""
        root = Hypothesis(score=float(gumbel(request.common, 1)), state=0.0)
        return cls(width, divisor("none", 0.0), "false", request, live=[root], temperature=temperature)

    def scored(self, log_p: Tensor) -> Tensor:
        """(b, V) heights of all children."""
        self._log_q = torch.tensor([h.state for h in self.live], dtype=torch.float64, device=log_p.device)[:, None] \
            + (log_p.double() / self.temperature).log_softmax(-1)
        return raised(self._log_q, [h.score for h in self.live], self.request.common)

    def child(self, row: int, token: int, score: float, log_p: float) -> Hypothesis:
        """The child with its own log p after temperature."""
        return super().child(row, token, score, log_p)._replace(state=float(self._log_q[row, token]))


def raised(log_q: Tensor, height: Sequence[float], stream: Stream) -> Tensor:
    """Heights (b, V) of children of log p `log_q` (b, V), the highest of a row being its parent's `height` (b,)."""
    noise = gumbel(stream, log_q.numel()).to(log_q.device).view_as(log_q)
    return truncated(log_q + noise, torch.tensor(height, dtype=torch.float64, device=log_q.device))
