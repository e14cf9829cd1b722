"""Uniform information density: beam search over log p minus `strength` times a regulariser of the surprisals.

Meister et al. 2020 (arXiv 2010.02650, §5). With u the surprisal of each token, −log p, and u* the lowest one at
its position, `regulariser` "greedy" is Σ(u − u*)², "variance" the mean of (u − ū)², "local" the mean squared step from
one token's u to the next one's, "max" the largest u, "squared" Σu². As in the authors' code each beam offers its
`width` likeliest tokens, a finished hypothesis keeps its slot, and every step ranks all by the total score: "variance"
and "local" may fall with length. They are zero for a sequence of one token, so they do not prevent empty answers.
Sample i of a prompt is the i-th best hypothesis.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from harness.decoding.search import Hypothesis, Search, Slots, divisor, walk
from harness.engine.session import Session
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class UidBeam(Search):
    """`strength=0` is `beam` with `finished=kept`; with "greedy" and a large strength it is `greedy`."""

    width: int = knob(5, "beams", low=1, high=512, sweep=(5, 10, 20), also="num_beams")
    strength: float = knob(0.5, "weight of the regulariser", low=0, high=1e6, sweep=(0.0, 0.1, 0.5, 1.0, 5.0, 10.0))
    regulariser: str = knob("greedy", "the penalty", choices=("greedy", "variance", "local", "max", "squared"),
                            sweep=("greedy", "variance", "local", "max", "squared"))
    length_penalty: float = knob(0.0, "the score is divided by length to this power", low=-5, high=5,
                                 sweep=(0.0, 1.0))

    paper: ClassVar[str] = "Meister et al. 2020, arXiv 2010.02650"

    def search(self, session: Session, request: Request) -> list[Hypothesis]:
        """Return the finished hypotheses, best first; `score` is the regularised one."""
        slots = Even(self.width, divisor("power", self.length_penalty), "false", request,
                     live=[Hypothesis(state=Path())], knobs=self)
        walk(session, [slots])
        return slots.pool


class Path(NamedTuple):
    """Statistics of a path's surprisals: the running `total` of the regulariser, their mean, and the last one."""

    total: float = 0.0
    mean: float = 0.0
    last: float = 0.0


Update = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
"""`(total, mean, last, u, n) → new total`: (b, 1) of the paths of n tokens and (b, V) u of their children."""


TOTALS: dict[str, Update] = {
    "greedy": lambda total, mean, last, u, n: total + (u - u.amin(-1, keepdim=True)) ** 2,
    "variance": lambda total, mean, last, u, n: total + (u - mean) ** 2 * n / (n + 1),
    "local": lambda total, mean, last, u, n: total + (u - last) ** 2 * min(n, 1),
    "max": lambda total, mean, last, u, n: total.maximum(u),
    "squared": lambda total, mean, last, u, n: total + u**2,
}
AVERAGED = ("variance", "local")


@dataclass
class Even(Slots):
    """Beams whose state is the statistics of their surprisals."""

    knobs: UidBeam = UidBeam()

    def scored(self, log_p: Tensor) -> Tensor:
        """Return (b, V) regularised scores of the likeliest children of each beam, −∞ for the others."""
        u, kind, n = -log_p.double(), self.knobs.regulariser, len(self.live[0].tokens)
        paths = torch.tensor([[h.log_p, *h.state] for h in self.live], dtype=torch.float64, device=u.device)
        log_p_sum, total, mean, last = (column[:, None] for column in paths.unbind(1))
        self._totals = TOTALS[kind](total, mean, last, u, n)
        scores = log_p_sum - u - self.knobs.strength * self._totals / (n + 1 if kind in AVERAGED else 1)
        likely = log_p.topk(min(self.width, log_p.shape[1])).values[:, -1:]
        return scores.masked_fill((log_p < likely) | log_p.isinf(), -torch.inf)

    def child(self, row: int, token: int, score: float, log_p: float) -> Hypothesis:
        """Return the child with its own statistics."""
        mean, n = self.live[row].state.mean, len(self.live[row].tokens)
        path = Path(float(self._totals[row, token]), mean + (-log_p - mean) / (n + 1), -log_p)
        return super().child(row, token, score, log_p)._replace(state=path)
