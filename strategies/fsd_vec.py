"""FSD-vec: penalise tokens that followed similar hidden states earlier in the text.

Yang et al. 2023 (arXiv 2305.12675, §3.3). Among the `k` likeliest tokens v take the one with the highest
(1 − alpha) · p(v) − alpha · c(v). The last n − 1 hidden states, laid end to end, are compared with those of every
earlier stretch of prompt and output: c(v) is the largest cosine of a stretch that v followed, and 0 when v followed
none. With n = 2, the authors' choice, a stretch is one state. `newlines` multiplies the charge of line breaks.
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

    k: int = knob(3, "candidates", low=1, high=4096, sweep=(3, 5, 8, 10))
    alpha: float = knob(0.45, "weight of the charge; 0 is greedy", low=0, high=1, sweep=(0.1, 0.2, 0.4, 0.45, 0.6))
    n: int = knob(2, "states compared, and one", low=2, high=16, sweep=(2, 3, 4))
    newlines: float = knob(1.0, "factor on the charge of tokens that end a line", low=0, high=10, sweep=(0.0, 1.0))

    paper: ClassVar[str] = "Yang et al. 2023, arXiv 2305.12675"
    family: ClassVar[str] = "anti-repetition"
    guarantee: ClassVar[Guarantee] = "changes-output"
    needs: ClassVar[frozenset[Need]] = frozenset({"hidden"})

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one token a step."""
        text, lines = list(request.prompt), newlines(request) if self.newlines != 1 else ()
        while True:
            session.follow(text)
            probs, tokens = likeliest(session.read().logits[0], self.k)
            charges = charged(session.memory.float(), text, tokens, self.n - 1)
            text.append(tokens[weighed(probs, softened(charges, tokens, lines, self.newlines), self.alpha)])
            yield text[-1:]


def charged(states: Tensor, text: list[int], tokens: list[int], span: int) -> Tensor:
    """c (K,) of each of `tokens` in [0, 1], from the hidden states (T, D) of `text`; zero where T < span + 1."""
    if len(text) <= span:
        return states.new_zeros(len(tokens))
    dots = (states @ states[-span:].T).unfold(0, span, 1).diagonal(dim1=1, dim2=2).sum(-1)  # (T − span + 1,)
    sizes: Tensor = torch.linalg.vector_norm(states, dim=-1).square().unfold(0, span, 1).sum(-1).sqrt()
    alike = dots[:-1] / (sizes[:-1] * sizes[-1]).clamp_min(1e-12)     # the last stretch has no follower yet
    followers = torch.tensor(text[span:], device=states.device)
    match = followers == torch.tensor(tokens, device=states.device)[:, None]
    return alike.where(match, 0).amax(-1).clamp(0, 1)
