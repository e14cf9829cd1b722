"""Momentum decoding: a greedy walk on the graph of the text so far that resists going round in circles.

Lan et al. 2022 (arXiv 2212.02175). Among the `k` likeliest tokens each is charged alpha · f(r), where r is how long a
stretch the text would repeat: 0 for a new token, 1 for one seen before, l for one that completes an l-gram (up to 5)
already in the prompt or the output. `resistance` is f: "linear" f(r) = r (the paper's table), "constant" 2 for any
repeat, "log" log6(1 + r)/0.2, "exp" 1.5^r / 2.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.session import Session
from harness.strategy import Guarantee, Request, Strategy, knob

LONGEST = 5
RESISTANCE: dict[str, Callable[[int], float]] = {
    "linear": float,
    "constant": lambda r: 2.0,
    "log": lambda r: math.log(1 + r, 6) / 0.2,
    "exp": lambda r: 1.5**r / 2,
}


@dataclass(frozen=True)
class Momentum(Strategy):
    """One forward a token; the charge needs only the text."""

    k: int = knob(5, "candidates", low=1, high=4096, sweep=(3, 5, 8, 10))
    alpha: float = knob(0.2, "weight of the resistance; 0 is greedy", low=0, high=10, sweep=(0.05, 0.1, 0.2, 0.4))
    resistance: str = knob("linear", "how the charge grows", choices=tuple(RESISTANCE), sweep=tuple(RESISTANCE))

    paper: ClassVar[str] = "Lan et al. 2022, arXiv 2212.02175"
    family: ClassVar[str] = "anti-repetition"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one token a step."""
        text, charge = list(request.prompt), RESISTANCE[self.resistance]
        while True:
            session.follow(text)
            logits = session.read().logits[0]
            probs, tokens = logits.softmax(-1).topk(min(self.k, logits.numel()))
            candidates, repeats = tokens.tolist(), repeated(text)
            scores = [p - self.alpha * charge(repeats[c]) if c in repeats else p
                      for p, c in zip(probs.tolist(), candidates, strict=True)]
            token = candidates[scores.index(max(scores))]
            text.append(token)
            yield [token]


def repeated(text: Sequence[int]) -> dict[int, int]:
    """r of every token in `text`: the longest l ≤ 5 such that the text's end and the token repeat an l-gram of it."""
    found = dict.fromkeys(text, 1)
    for place in range(len(text) - 1):
        length = 0
        while length < LONGEST - 1 and place >= length and text[place - length] == text[-1 - length]:
            length += 1
        if length:
            found[text[place + 1]] = max(found[text[place + 1]], length + 1)
    return found
