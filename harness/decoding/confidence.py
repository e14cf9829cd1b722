"""The confidence of a model in what it wrote, from its logits: of each token, of groups of tokens, of a whole text."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from harness.decoding.samples import log_p, mean, scored
from harness.engine.session import Session


def surprise(logits: Tensor, count: int) -> Tensor:
    """Return (N,) the mean of −log p over the `count` likeliest tokens of each row (N, V), without impossible ones.

    The more a row is peaked, the larger it is: this is the token confidence of DeepConf (2508.15260, §2).
    """
    likeliest = logits.topk(min(count, logits.shape[-1])).values
    possible = likeliest.isfinite()
    return logits.logsumexp(-1) - likeliest.where(possible, 0).sum(-1) / possible.sum(-1)


def self_certainty(logits: Tensor) -> Tensor:
    """Return (N,) KL(uniform ‖ p) of each row (N, V), over its possible tokens (2502.18581, §3)."""
    return surprise(logits, logits.shape[-1]) - logits.isfinite().sum(-1).log()


def gap(logits: Tensor) -> Tensor:
    """Return (N,) by how much the likeliest token of each row (N, V) is more probable than the second."""
    first, second = logits.softmax(-1).topk(2).values.unbind(-1)
    return first - second


def groups(values: Tensor, window: int) -> Tensor:
    """Return the means (G,) of all `window` successive values (N,); of fewer values than that, their one mean."""
    if not len(values):
        return values.new_zeros(1)
    return values.unfold(0, min(window, len(values)), 1).mean(-1)


def lowest(values: Tensor, window: int) -> float:
    """Return the mean of the group with the lowest one."""
    return float(groups(values, window).min())


def bottom(values: Tensor, window: int) -> float:
    """Return the mean of the tenth of all groups that is lowest, at least one group."""
    means = groups(values, window).sort().values
    return float(means[:max(1, len(means) // 10)].mean())


def tail(values: Tensor, window: int) -> float:
    """Return the mean of the last `window` values."""
    return mean(values[-window:])


def least(confidences: Sequence[float], percent: float) -> float:
    """Return the confidence that the top `percent` % of texts have at least, interpolated as NumPy's percentile."""
    return float(torch.tensor(confidences, dtype=torch.float64).quantile(1 - percent / 100))


Confidence = Callable[[Session, Sequence[int], list[int], int, int], float]
"""`(session, prompt, text, top, window) → confidence` of a text, over `top` tokens of a row and `window` rows."""


def _of_tokens(reduce: Callable[[Tensor, int], float], session: Session, prompt: Sequence[int], text: list[int],
               top: int, window: int) -> float:
    return reduce(scored(session, prompt, text, lambda logits, part: surprise(logits, top)), window)


def _certain(session: Session, prompt: Sequence[int], text: list[int], top: int, window: int) -> float:
    return mean(scored(session, prompt, text, lambda logits, part: self_certainty(logits)))


def _probable(session: Session, prompt: Sequence[int], text: list[int], top: int, window: int) -> float:
    return math.exp(mean(log_p(session, prompt, text)))


CONFIDENCES: Mapping[str, Confidence] = {
    "self_certainty": _certain, "probability": _probable,
    "mean": partial(_of_tokens, lambda values, window: mean(values)), "lowest": partial(_of_tokens, lowest),
    "bottom": partial(_of_tokens, bottom), "tail": partial(_of_tokens, tail),
}
