"""The few likeliest tokens, among which a method makes its own choice."""

from collections.abc import Collection, Sequence
from math import inf

from torch import Tensor

from harness.plugins.strategy import Request


def likeliest(logits: Tensor, count: int) -> tuple[Tensor, list[int]]:
    """The `count` likeliest tokens of `logits` (V,) and, before them, their probabilities (K,) among all tokens.

    The likeliest comes first and equal ones by their id; tokens of −∞ are left out. Raises `ValueError` when nothing
    is left.
    """
    least = logits.topk(min(count, logits.numel())).values[-1]
    tokens = ((logits >= least) & (logits > -inf)).nonzero()[:, 0]
    if not len(tokens):
        raise ValueError("cannot choose among tokens that are all impossible")
    tokens = tokens[logits[tokens].argsort(descending=True, stable=True)[:count]]
    return logits.softmax(-1)[tokens], tokens.tolist()


def weighed(probs: Tensor, charges: Tensor, alpha: float) -> int:
    """Which of the candidates (K,) has the highest (1 − alpha) · p − alpha · charge; ties go to the first."""
    return int(((1 - alpha) * probs - alpha * charges).argmax())


def newlines(request: Request) -> frozenset[int]:
    """The tokens that end a line or leave one empty, if there are some; raises `Unsupported` for a request of ids."""
    return frozenset(tokens[-1] for text in ("\n", "\n\n") if (tokens := request.as_text.tokens(text)))


def softened(charges: Tensor, tokens: Sequence[int], some: Collection[int], factor: float) -> Tensor:
    """The charges (K,) of `tokens`, those of `some` tokens multiplied by `factor`."""
    return charges * charges.new_tensor([factor if token in some else 1.0 for token in tokens])
