"""Contrastive search: choose among the `k` likeliest tokens one that is likely and dissimilar to the context.

Su et al. 2022 (arXiv 2202.06417, §3.2). `alpha` weighs the degeneration penalty, the largest cosine between the
candidate's hidden state and that of any token before it, prompt included, against the model's probability. The
defaults are the authors' for models that were not trained for it; with such training they use k = 8.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from harness.engine.session import Session
from harness.engine.tree import ROOT, TokenTree
from harness.plugins.strategy import Guarantee, Need, Request, Strategy, knob
from strategies.parts.candidates import likeliest, weighed


@dataclass(frozen=True)
class ContrastiveSearch(Strategy):
    """One forward over k candidates a token; the winner's cache is kept. Identities: `alpha=0`, `k=1` are `greedy`."""

    k: int = knob(4, "candidates", low=1, high=256, sweep=(3, 4, 5, 8, 10), also="top_k")
    alpha: float = knob(0.6, "weight of the penalty; 0 is greedy", low=0, high=1, sweep=(0.1, 0.2, 0.4, 0.6, 0.8),
                        also="penalty_alpha")

    paper: ClassVar[str] = "Su et al. 2022, arXiv 2202.06417"
    family: ClassVar[str] = "anti-repetition"
    guarantee: ClassVar[Guarantee] = "changes-output"
    needs: ClassVar[frozenset[Need]] = frozenset({"hidden"})

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one token a step."""
        session.follow(request.prompt)
        logits = session.read().logits[0]
        while True:
            probs, candidates = likeliest(logits, self.k)
            reading = session.read(TokenTree(tuple(candidates), (ROOT,) * len(candidates)))
            best = weighed(probs, likeness(reading.hidden[1:].float(), session.memory.float()), self.alpha)
            session.keep([best])
            logits = reading.logits[1 + best]
            yield [candidates[best]]


def likeness(states: Tensor, known: Tensor) -> Tensor:
    """Compute (K,) the largest cosine of each of `states` (K, D) with any of `known` (T, D)."""
    return (normalize(states, dim=-1) @ normalize(known, dim=-1).T).amax(-1)
