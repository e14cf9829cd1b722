"""Warps bend the logits before a token is drawn; draft and target of one strategy go through the same ones."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Warp = Callable[[Tensor, Sequence[Sequence[int]]], Tensor]
"""`(logits, texts) → logits`, both (N, V) float32; `texts[i]` is the text before row i, for warps that depend on it."""


def identity(logits: Tensor, texts: Sequence[Sequence[int]]) -> Tensor:
    """Leave the logits as they are."""
    return logits


def temperature(value: float) -> Warp:
    """Divide by `value` > 0; zero means greedy and is the acceptance rule's business, so it leaves them as they are."""
    return identity if value in (0.0, 1.0) else lambda logits, texts: logits / value


def top_p(mass: float) -> Warp:
    """Keep the smallest set of likeliest tokens whose mass reaches `mass`, at least one (Holtzman 2019, §3.1)."""
    def warp(logits: Tensor, texts: Sequence[Sequence[int]]) -> Tensor:
        probs, order = torch.softmax(logits, -1).sort(dim=-1, descending=True, stable=True)
        before = probs.cumsum(-1) - probs
        dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= mass)
        dropped.scatter_(-1, order[:, :1], False)
        return logits.masked_fill(dropped, float("-inf"))
    return identity if mass >= 1 else warp


def compose(*warps: Warp) -> Warp:
    """Apply `warps` from left to right."""
    real = [warp for warp in warps if warp is not identity]

    def composed(logits: Tensor, texts: Sequence[Sequence[int]]) -> Tensor:
        for warp in real:
            logits = warp(logits, texts)
        return logits
    return composed if real else identity
