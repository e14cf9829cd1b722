"""FSD-vec: penalise tokens that followed similar hidden states earlier in the sequence.

Yang et al. 2023 (arXiv 2305.12675, §3.3). Among the `k` likeliest tokens v take the one with the highest
(1 − alpha) · p(v) − alpha · c(v). The last n − 1 hidden states, concatenated, are compared with those of every
earlier span of prompt and output: c(v) is the largest cosine of a span that v followed, and 0 when v followed
none. With n = 2, the authors' choice, a span is one state. `newlines` multiplies the penalty of line breaks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.engine.session import Session
from harness.plugins.strategy import Guarantee, Need, Request, Strategy, knob
from strategies.parts.candidates import likeliest, newlines, softened, weighed


@dataclass(frozen=True)
class FsdVec(Strategy):
    """One forward a token. Identities: `alpha=0` and `k=1` are `greedy`."""

    k: int = knob(3, "candidates", low=1, high=4096, sweep=(3, 5, 8, 10), also="top_k")
    alpha: float = knob(0.45, "weight of the penalty; 0 is greedy", low=0, high=1, sweep=(0.1, 0.2, 0.4, 0.45, 0.6),
                        also="penalty_alpha")
    n: int = knob(2, "one more than the hidden states compared", low=2, high=16, sweep=(2, 3, 4))
    newlines: float = knob(1.0, "factor on the penalty of tokens that end a line", low=0, high=10, sweep=(0.0, 1.0))

    paper: ClassVar[str] = "Yang et al. 2023, arXiv 2305.12675"
    family: ClassVar[str] = "anti-repetition"
    guarantee: ClassVar[Guarantee] = "changes-output"
    needs: ClassVar[frozenset[Need]] = frozenset({"hidden"})

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one token a step."""
        sequence, lines = list(request.prompt), newlines(request) if self.newlines != 1 else ()
        while True:
            session.follow(sequence)
            probs, tokens = likeliest(session.read().logits[0], self.k)
            penalty = penalties(session.memory.float(), sequence, tokens, self.n - 1)
            sequence.append(tokens[weighed(probs, softened(penalty, tokens, lines, self.newlines), self.alpha)])
            yield sequence[-1:]


def penalties(states: Tensor, sequence: list[int], tokens: list[int], span: int) -> Tensor:
    """Compute c (K,) in [0, 1] of `tokens` from the hidden states (T, D) of `sequence`; zero where T < span + 1."""
    if len(sequence) <= span:
        return states.new_zeros(len(tokens))
    dots = (states @ states[-span:].T).unfold(0, span, 1).diagonal(dim1=1, dim2=2).sum(-1)  # (T − span + 1,)
    sizes: Tensor = torch.linalg.vector_norm(states, dim=-1).square().unfold(0, span, 1).sum(-1).sqrt()
    alike = dots[:-1] / (sizes[:-1] * sizes[-1]).clamp_min(1e-12)     # the last span has no next token yet
    followers = torch.tensor(sequence[span:], device=states.device)
    match = followers == torch.tensor(tokens, device=states.device)[:, None]
    return alike.where(match, 0).amax(-1).clamp(0, 1)
