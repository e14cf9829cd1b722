"""Contrastive search: among the `k` likeliest tokens take the one that is likely and unlike what stands already.

Su et al. 2022 (arXiv 2202.06417, §3.2). `alpha` weighs the degeneration penalty, the largest cosine between the
candidate's hidden state and that of any token before it, prompt included, against the model's probability. The
defaults are the authors' for models that were not trained for it; with such training they use k = 8.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch.nn.functional import normalize

from harness.decoding.session import Session
from harness.decoding.tree import TokenTree
from harness.strategy import Guarantee, Need, Request, Strategy, knob


@dataclass(frozen=True)
class ContrastiveSearch(Strategy):
    """One forward over k candidates a token; the winner's cache is kept."""

    k: int = knob(4, "candidates", low=1, high=256, sweep=(3, 4, 5, 8, 10))
    alpha: float = knob(0.6, "weight of the penalty; 0 is greedy", low=0, high=1, sweep=(0.1, 0.2, 0.4, 0.6, 0.8))

    paper: ClassVar[str] = "Su et al. 2022, arXiv 2202.06417"
    family: ClassVar[str] = "anti-repetition"
    guarantee: ClassVar[Guarantee] = "changes-output"
    needs: ClassVar[frozenset[Need]] = frozenset({"hidden"})

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one token a step."""
        session.follow(request.prompt)
        logits = session.read().logits[0]
        while True:
            probs, tokens = logits.softmax(-1).topk(min(self.k, logits.numel()))
            candidates = tokens.tolist()
            reading = session.read(TokenTree(tuple(candidates), (-1,) * len(candidates)))
            known = normalize(session.memory.float(), dim=-1)                     # (T, D)
            alike = normalize(reading.hidden[1:].float(), dim=-1) @ known.T       # (k, T)
            scores = (1 - self.alpha) * probs - self.alpha * alike.amax(-1)
            best = int(scores.argmax())
            session.keep([best])
            logits = reading.logits[1 + best]
            yield [candidates[best]]
