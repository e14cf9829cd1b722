"""Beam sampling: at every step draw the candidates of a beam search instead of taking the best.

The rules of `generate(num_beams=…, do_sample=True)` in transformers 5.24: of all continuations of all beams, twice
`width` are drawn without replacement in proportion to exp(score) and sorted by score (5.23 kept the sampled order).
Those of the first `width` that end are finished; the best `width` of the others live on. The output does not have the
distribution of the model: more beams make likely sequences more frequent; `stochastic_beam` keeps it. `temperature`
divides log p and `p` cuts to the nucleus, neither renormalised. Each sample is a search of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, cast

from torch import Tensor

from harness.decoding.search import Beams, EarlyStopping, Hypothesis, Search, best, divisor, walk
from harness.engine import logit_warps
from harness.engine.random_stream import gumbel
from harness.engine.session import Session
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class BeamSample(Search):
    """`temperature=0` is `beam` with the same knobs; `width=1` is plain sampling, `top_p` with the same knobs."""

    width: int = knob(4, "beams", low=1, high=256, sweep=(2, 4, 5, 8, 10), also="num_beams")
    temperature: float = knob(1.0, "divides log p; 0 takes the best", low=0, high=10, sweep=(0.3, 0.5, 0.7, 1.0, 1.2))
    p: float = knob(1.0, "nucleus of each beam's next tokens", low=0, high=1, sweep=(0.8, 0.9, 0.95, 1.0), also="top_p")
    length_penalty: float = knob(1.0, "the score is divided by length to this power", low=-5, high=5,
                                 sweep=(0.0, 0.6, 1.0, 2.0))
    early_stopping: str = knob("false", "when a full pool ends the search", choices=("false", "true", "never"),
                               sweep=("false", "true", "never"))

    paper: ClassVar[str] = "rules of transformers 5.24"

    def search(self, session: Session, request: Request) -> list[Hypothesis]:
        """Run one search and return its finished hypotheses, best first; `score` is log p after temperature."""
        front = self.front(request)
        walk(session, [front])
        return front.pool

    def front(self, request: Request) -> Beams:
        """Return the search before its first step."""
        rule, stopping = divisor("power", self.length_penalty), cast(EarlyStopping, self.early_stopping)
        if not self.temperature:
            return Beams(self.width, rule, stopping, request)
        warp = logit_warps.compose(logit_warps.temperature(self.temperature), logit_warps.top_p(self.p))
        return Drawn(self.width, rule, stopping, request, logit_warp=warp)

    def generate(self, session: Session, request: Request) -> Iterator[tuple[int, ...]]:
        """Yield the best hypothesis whole."""
        yield self.search(session, request)[0].tokens

    def max_samples(self) -> None:
        """Any number, each of a search of its own."""


@dataclass
class Drawn(Beams):
    """Beams whose candidates are drawn; a single beam draws one."""

    logit_warp: logit_warps.Warp = logit_warps.identity

    def scored(self, log_p: Tensor) -> Tensor:
        """Return (b, V) sums of log p after temperature and nucleus."""
        return super().scored(self.logit_warp(log_p, []))

    def chosen(self, scores: Tensor, count: int) -> Tensor:
        """Return indices drawn without replacement in proportion to exp(score), sorted by score."""
        noise = gumbel(self.request.stream, scores.numel(), scores.device)
        drawn = best(scores + noise, count if self.width > 1 else 1)
        return drawn[best(scores[drawn], len(drawn))]
