"""Beam sampling: at every step draw the candidates of a beam search instead of taking the best.

The rules of transformers' `generate(num_beams=…, do_sample=True)`: of all continuations of all beams, twice `width` are
drawn without replacement in proportion to exp(score); the best `width` by score live on, and those among the first
`width` drawn that end are finished. This is no sampler of the model's law: it favours likely texts, more so the more
beams there are; `stochastic_beam` keeps the law. `temperature` divides log p and `p` cuts to the nucleus, neither
normalised again, so that the score is the sum of what was divided. Sample i is the best hypothesis of a search of its
own.
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

    width: int = knob(4, "beams", low=1, high=256, sweep=(2, 4, 5, 8, 10))
    temperature: float = knob(1.0, "divides log p; 0 takes the best", low=0, high=10, sweep=(0.3, 0.5, 0.7, 1.0, 1.2))
    p: float = knob(1.0, "nucleus of each beam's next tokens", low=0, high=1, sweep=(0.8, 0.9, 0.95, 1.0))
    length_penalty: float = knob(1.0, "the score is divided by length to this power", low=-5, high=5,
                                 sweep=(0.0, 0.6, 1.0, 2.0))
    early_stopping: str = knob("false", "when a full pool ends the search", choices=("false", "true", "never"),
                               sweep=("false", "true", "never"))

    paper: ClassVar[str] = "rules of transformers 5"

    def search(self, session: Session, request: Request) -> list[Hypothesis]:
        """The finished hypotheses of one search, best first; `score` is their log p after temperature."""
        front = self.front(request)
        walk(session, [front])
        return front.pool

    def front(self, request: Request) -> Beams:
        """The search before its first step."""
        rule, stopping = divisor("power", self.length_penalty), cast(EarlyStopping, self.early_stopping)
        if not self.temperature:
            return Beams(self.width, rule, stopping, request)
        law = logit_warps.compose(logit_warps.temperature(self.temperature), logit_warps.top_p(self.p))
        return Drawn(self.width, rule, stopping, request, law=law)

    def generate(self, session: Session, request: Request) -> Iterator[tuple[int, ...]]:
        """Yield the best hypothesis whole."""
        yield self.search(session, request)[0].tokens

    def most_samples(self) -> None:
        """Any number, each of a search of its own."""


@dataclass
class Drawn(Beams):
    """Beams whose candidates are drawn; a single beam draws one."""

    law: logit_warps.Warp = logit_warps.identity

    def scored(self, log_p: Tensor) -> Tensor:
        """(b, V) sums of log p after temperature and nucleus."""
        return super().scored(self.law(log_p, []))

    def chosen(self, scores: Tensor, count: int) -> Tensor:
        """Places drawn without replacement in proportion to exp(score), in the order of the draws."""
        noise = gumbel(self.request.stream, scores.numel()).to(scores.device)
        return best(scores + noise, count if self.width > 1 else 1)
