"""SLED: move the last layer's logits one gradient step towards the tokens that explain their change since early layers.

Zhang et al. 2024 (arXiv 2411.02433). z are the last layer's logits and z' those of an early exit. If token i were the
truth, softmax(z') − one-hot(i) would be the gradient at z'; its cosine with z' − z tells how well i explains the
change. The squares of the positive cosines, over all exits and the `k` likeliest tokens, are normalised to a
distribution P. The scores are z − `alpha`·(softmax(z) − P), one step of gradient descent; only the `k` tokens may
follow.

`layers` are the early exits: all below the last one, or every second one of the lower or upper half, as in `dola`.
Exits skip the final norm as in the authors' code, unless `norm`. That code gives all other tokens a score of −1000;
here they are impossible. It advises a repetition penalty of 1.01 to 1.05.
"""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from harness.decoding.contrast import Contrast, Scorer, exit_layers, from_exits
from harness.engine.session import Session
from harness.plugins.strategy import Request, knob

SMALL = 1e-30  # least product of two lengths, in place of 0
LAYERS = ("all", "low", "high")


@dataclass(frozen=True)
class Sled(Contrast):
    """`alpha=0` is `greedy`, and above temperature 0 it is `top_k`; `k=1` is `greedy`."""

    alpha: float = knob(2.0, "evolution rate: size of the step; 0 is greedy", low=0, high=100,
                        sweep=(0.5, 1.0, 1.75, 2.0, 2.5))
    k: int = knob(10, "evolution scale: tokens that may follow", low=1, high=4096, sweep=(5, 10, 20, 75))
    layers: str = knob("all", "early exits", choices=LAYERS, sweep=LAYERS)
    norm: bool = knob(False, "early exits go through the final norm", sweep=(False, True))

    paper: ClassVar[str] = "Zhang et al. 2024, arXiv 2411.02433"

    def scorer(self, session: Session, request: Request) -> Scorer:
        """Return the scorer of one sequence."""
        return from_exits(session, exit_layers(session.engine.parts, self.layers), self.norm, self.scores)

    def scores(self, last: Tensor, exits: Tensor) -> Tensor:
        """Compute scores (V,) from the logits (V,) of the last layer and (J, V) of the exits; −∞ but for k tokens."""
        values, tokens = last.topk(min(self.k, len(last)))
        evolved = values - self.alpha * (last.softmax(-1)[tokens] - explained(last, exits, tokens))
        return torch.full_like(last, -inf).scatter(0, tokens, evolved)


def explained(last: Tensor, exits: Tensor, tokens: Tensor) -> Tensor:
    """Compute the latent distribution P (K,) of `tokens` from logits (V,) and (J, V); all 0 if none explains anything.

    Tokens that are impossible in the last layer have no share.
    """
    early, allowed = exits.softmax(-1), last > -inf
    change = torch.where(allowed, exits - last, 0.0)
    missing = others(early, tokens)  # 1 − softmax(z') of each token, also where that is almost 1
    product = others(early * change, tokens) - missing * change[:, tokens]  # of change and softmax(z') − one-hot
    length = (others(early.square(), tokens) + missing.square()).sqrt() * change.norm(dim=-1, keepdim=True)
    share = torch.where(allowed[tokens], (product / length.clamp_min(SMALL)).clamp_min(0).square(), 0.0)
    return share.sum(0) / share.sum().clamp_min(torch.finfo(share.dtype).tiny)


def others(terms: Tensor, tokens: Tensor) -> Tensor:
    """Sum each row of terms (J, V) without the term of each of `tokens`: (J, K). No large term is taken off again."""
    own = terms[:, tokens]
    before = pad(own.cumsum(-1)[:, :-1], (1, 0))
    after = pad(own.flip(-1).cumsum(-1)[:, :-1], (1, 0)).flip(-1)
    return terms.index_fill(1, tokens, 0).sum(-1, keepdim=True) + before + after
