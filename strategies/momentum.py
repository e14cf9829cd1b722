"""Momentum decoding: greedy decoding that penalises loops in the graph of the sequence so far.

Lan et al. 2022 (arXiv 2212.02175). Each of the `k` likeliest tokens gets the penalty alpha · f(r), r the length
of the repeat: 0 for a new token, 1 for one seen before, l for one that completes an l-gram (up to 5)
already in the prompt or the output. `resistance` is f: "linear" f(r) = r (the paper's table), "constant" 2 for any
repeat, "log" log6(1 + r)/0.2, "exp" 1.5^r / 2, "chinese" 0 1 1 2 3 4 (the authors' table for a Chinese model).
"blocking" is the table that their repository holds now, 0 0 0 0 5 ∞: with k = 2000 that is 4-gram blocking and no
longer the method.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf, log
from typing import ClassVar

from harness.engine.session import Session
from harness.plugins.strategy import Guarantee, Request, Strategy, knob
from strategies.parts.candidates import likeliest
from strategies.parts.grams import Grams

LONGEST = 5
RESISTANCE: dict[str, Callable[[int], float]] = {
    "linear": float,
    "constant": lambda r: 2.0 if r else 0.0,
    "log": lambda r: log(1 + r, 6) / 0.2,
    "exp": lambda r: 1.5**r / 2 if r else 0.0,
    "chinese": lambda r: (0.0, 1.0, 1.0, 2.0, 3.0, 4.0)[r],
    "blocking": lambda r: (0.0, 0.0, 0.0, 0.0, 5.0, inf)[r],
}


@dataclass(frozen=True)
class Momentum(Strategy):
    """One forward a token; the penalty needs only the token ids. Identities: `alpha=0` and `k=1` are `greedy`."""

    k: int = knob(5, "candidates", low=1, high=4096, sweep=(3, 5, 8, 10))
    alpha: float = knob(0.2, "weight of the resistance; 0 is greedy", low=0, high=10, sweep=(0.05, 0.1, 0.2, 0.4))
    resistance: str = knob("linear", "growth of the penalty", choices=tuple(RESISTANCE), sweep=tuple(RESISTANCE))

    paper: ClassVar[str] = "Lan et al. 2022, arXiv 2212.02175"
    family: ClassVar[str] = "anti-repetition"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one token a step."""
        grams = Grams(LONGEST, request.prompt)
        while True:
            session.follow(grams.sequence)
            probs, tokens = likeliest(session.read().logits[0], self.k)
            scores = [p - self._penalty(r) for p, r in zip(probs.tolist(), repeated(grams, tokens), strict=True)]
            token = tokens[scores.index(max(scores))]
            grams.add(token)
            yield [token]

    def _penalty(self, r: int) -> float:
        return self.alpha * RESISTANCE[self.resistance](r) if self.alpha else 0.0


def repeated(grams: Grams, tokens: Sequence[int]) -> list[int]:
    """Return r of each of `tokens`: the longest l ≤ 5 such that it completes an l-gram of the sequence."""
    followed = [grams.after(length) for length in range(LONGEST)]
    return [next((length + 1 for length in range(LONGEST - 1, -1, -1) if token in followed[length]), 0)
            for token in tokens]
