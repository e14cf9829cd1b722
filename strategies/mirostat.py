"""Mirostat: sampling whose surprisal is steered to a target by feedback.

Basu et al. 2020 (arXiv 2007.14966). Each step fits a Zipf distribution to the likeliest tokens, keeps the number of
tokens that have by that fit a surprisal of at most mu bits, draws one, and lowers mu by `rate` times the difference of
its surprisal and `target`. mu starts at twice the target. The Zipf distribution has as many tokens as the
model; in the authors' code it has 50 000, whatever the model.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.decoding.accept import rejection
from harness.decoding.loop import one_by_one
from harness.engine import logit_warps
from harness.engine.session import Session
from harness.plugins.strategy import Guarantee, Request, Strategy, knob


@dataclass(frozen=True)
class Mirostat(Strategy):
    """Identity: with a target of 0 bits it becomes `greedy` once mu has fallen."""

    target: float = knob(3.0, "bits of surprisal per token", low=0, high=20, sweep=(2.5, 3.0, 4.0, 5.0))
    rate: float = knob(1.0, "how fast mu follows", low=0, high=10, sweep=(0.1, 0.5, 1.0))
    fitted: int = knob(100, "ratios that the Zipf exponent is fitted to", low=1, high=10_000, sweep=(50, 100))

    paper: ClassVar[str] = "Basu et al. 2020, arXiv 2007.14966"
    family: ClassVar[str] = "sampling"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one drawn token a step."""
        return one_by_one(session, rejection, request, Steered(self).warp)


class Steered:
    """The state of one sequence: mu in bits, and the surprisals from which the next token is drawn."""

    def __init__(self, knobs: Mirostat) -> None:
        self.knobs, self.mu = knobs, 2 * knobs.target
        self.surprise: Tensor | None = None

    def warp(self, logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Update mu by the surprisal of the last token, and keep the tokens (1, V) that mu allows."""
        before, self.surprise = self.surprise, -torch.log_softmax(logits[0].double(), -1) / math.log(2)
        ordered = self.surprise.sort().values[:self.knobs.fitted + 1]
        last = ordered[:1] if before is None else before[sequences[0][-1]:][:1]
        drawn, *rest = torch.cat([last, ordered]).tolist()
        self.mu -= self.knobs.rate * (drawn - self.knobs.target) if before is not None else 0.0
        exponent = zipf(torch.tensor(rest, dtype=torch.float64) * math.log(2))
        return logit_warps.top_k(size(exponent, self.mu, logits.shape[-1]))(logits, sequences)


def zipf(surprise: Tensor) -> float:
    """Fit the Zipf exponent to surprisals in nats, the likeliest first."""
    ranks, ratios = torch.arange(1, len(surprise), dtype=torch.float64), surprise.diff()
    steps, known = ((ranks + 1) / ranks).log(), ratios.isfinite()
    return float((ratios * steps)[known].sum() / steps[known].square().sum()) if known.any() else 0.0


def size(exponent: float, mu: float, vocab: int) -> int:
    """Count tokens with a surprisal of at most `mu` bits by the Zipf fit, plus one as the authors do."""
    if exponent <= 0:
        return vocab
    more = exponent - 1
    mass = math.log(more / -math.expm1(-more * math.log(vocab))) if abs(more) > 1e-9 else -math.log(math.log(vocab))
    return min(vocab, round(math.exp(min((mass + mu * math.log(2)) / exponent, math.log(vocab)))) + 1)
