"""Choice among the few likeliest tokens."""

from collections.abc import Collection, Sequence
from math import inf

from torch import Tensor

from harness.plugins.strategy import Request


def likeliest(logits: Tensor, count: int) -> tuple[Tensor, list[int]]:
    """Return the probabilities (K,) and ids of the `count` likeliest tokens of `logits` (V,).

    The likeliest comes first, ties by id; tokens of −∞ are left out. Raises `ValueError` when nothing is left.
    """
    least = logits.topk(min(count, logits.numel())).values[-1]
    tokens = ((logits >= least) & (logits > -inf)).nonzero()[:, 0]
    if not len(tokens):
        raise ValueError("cannot choose among tokens that are all impossible")
    tokens = tokens[logits[tokens].argsort(descending=True, stable=True)[:count]]
    return logits.softmax(-1)[tokens], tokens.tolist()


def weighed(probs: Tensor, penalties: Tensor, alpha: float) -> int:
    """Return the index in (K,) of the highest (1 − alpha) · p − alpha · penalty; ties go to the first."""
    return int(((1 - alpha) * probs - alpha * penalties).argmax())


def newlines(request: Request) -> frozenset[int]:
    """Return the tokens of line breaks and empty lines; raises `Unsupported` for a request of token ids."""
    return frozenset(tokens[-1] for text in ("\n", "\n\n") if (tokens := request.as_text.tokens(text)))


def softened(penalties: Tensor, tokens: Sequence[int], chosen: Collection[int], factor: float) -> Tensor:
    """Multiply the penalties (K,) of those `tokens` that are in `chosen` by `factor`."""
    return penalties * penalties.new_tensor([factor if token in chosen else 1.0 for token in tokens])
