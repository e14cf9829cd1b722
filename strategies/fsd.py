"""Frustratingly simple decoding (FSD): penalise tokens that an n-gram model of the sequence itself predicts.

Yang et al. 2023 (arXiv 2305.12675, §3). Among the `k` likeliest tokens v take the one with the highest
(1 − alpha) · p(v) − alpha · q(v). q is a smoothed n-gram model of prompt and output: the share of v among the tokens
that followed the last n − 1 tokens has weight `beta`, that after the last n − 2 has `beta` of the rest, and so on.
`variant` "official" is the authors' code, where an order in which v was not seen uses no weight; in "paper" every
order does. `newlines` is the authors' coefficient of stop words, for line breaks alone: 1 is their empty list, 0 the
value of their code for listed tokens. Their sequences have a fixed length by default; here EOS is a token like any
other.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from harness.engine.session import Session
from harness.plugins.strategy import Guarantee, Request, Strategy, knob
from strategies.parts.candidates import likeliest, newlines, softened, weighed
from strategies.parts.grams import Grams


@dataclass(frozen=True)
class Fsd(Strategy):
    """One forward a token; the penalty needs only the token ids. Identities: `alpha=0` and `k=1` are `greedy`."""

    k: int = knob(3, "candidates", low=1, high=4096, sweep=(3, 5, 8, 10), also="top_k")
    alpha: float = knob(0.65, "weight of the n-grams; 0 is greedy", low=0, high=1, sweep=(0.1, 0.2, 0.4, 0.55, 0.65),
                        also="penalty_alpha")
    n: int = knob(3, "longest n-gram counted", low=1, high=16, sweep=(2, 3, 4))
    beta: float = knob(0.9, "weight of the longer n-grams against the shorter", low=0, high=1, sweep=(0.5, 0.8, 0.9))
    variant: str = knob("official", "whether an order in which a token was not seen is skipped, or counts as zero",
                        choices=("official", "paper"), sweep=("official", "paper"))
    newlines: float = knob(1.0, "factor on the penalty of tokens that end a line", low=0, high=10, sweep=(0.0, 1.0))

    paper: ClassVar[str] = "Yang et al. 2023, arXiv 2305.12675"
    family: ClassVar[str] = "anti-repetition"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one token a step."""
        grams, lines = Grams(self.n, request.prompt), newlines(request) if self.newlines != 1 else ()
        while True:
            session.follow(grams.sequence)
            probs, tokens = likeliest(session.read().logits[0], self.k)
            penalty = probs.new_tensor(penalties(grams, tokens, self.beta, skips=self.variant == "official"))
            token = tokens[weighed(probs, softened(penalty, tokens, lines, self.newlines), self.alpha)]
            grams.add(token)
            yield [token]


def penalties(grams: Grams, tokens: list[int], beta: float, skips: bool) -> list[float]:
    """Compute q of each of `tokens`; zero while the sequence is shorter than the longest context.

    With `skips` an order in which a token was not seen uses no weight.
    """
    if len(grams.sequence) < max(1, grams.order - 1):
        return [0.0] * len(tokens)
    followed = [grams.after(length) for length in range(grams.order)]
    totals = [len(grams.sequence), *(sum(counts.values()) for counts in followed[1:])]
    values = []
    for token in tokens:
        rest, value = 1.0, 0.0
        for length in range(grams.order - 1, -1, -1):
            count = followed[length].get(token, 0)
            if count or not skips:
                value += rest * (beta * count / (totals[length] + 1) if length else count / totals[0])
                rest *= 1 - beta
        values.append(value)
    return values
