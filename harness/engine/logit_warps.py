"""Logit warps change the logits before sampling; a strategy applies the same warps to draft model and target."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

FEW = (256, 4096)  # numbers of highest scores that are sorted before the whole vocabulary is
Warp = Callable[[Tensor, Sequence[Sequence[int]]], Tensor]
"""`(logits, sequences) → logits`, both (N, V) float32; `sequences[i]` are the token ids before row i."""


def identity(logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Leave the logits as they are."""
    return logits


def temperature(value: float) -> Warp:
    """Divide by `value` > 0; at zero (greedy) the acceptance rule takes the argmax, and logits stay unchanged."""
    return identity if value in (0.0, 1.0) else lambda logits, sequences: logits / value


def drawn_at(value: float, *cuts: Warp) -> Warp:
    """Divide by the temperature `value`, then apply `cuts`; at temperature zero (greedy) change nothing."""
    return compose(temperature(value), *cuts) if value else identity


def top_k(count: int) -> Warp:
    """Keep the `count` > 0 most likely tokens; ties go to the lower id (Fan 2018, §4)."""
    def warp(logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        return _highest(logits, logits, lambda values, order: torch.full_like(order[..., 0], count))
    return warp


def top_p(mass: float) -> Warp:
    """Keep the smallest set of most likely tokens whose mass reaches `mass`, at least one (Holtzman 2019, §3.1)."""
    def warp(logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        return _highest(logits, torch.softmax(logits, -1), lambda probs, order: _reaching(probs, mass))
    return identity if mass >= 1 else warp


def min_p(share: float) -> Warp:
    """Keep tokens at least `share` times as probable as the most likely one (Nguyen 2024, §3)."""
    def warp(logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(share), -math.inf)
    return identity if share == 0 else warp


def typical(mass: float) -> Warp:
    """Keep the smallest set of mass `mass` whose surprisals are nearest to the entropy (Meister 2022, §4)."""
    def warp(logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        surprise = -torch.log_softmax(logits, -1)
        distance = (surprise - _entropy(surprise)[..., None]).abs()
        return _highest(logits, -distance,
                        lambda near, order: _reaching((-surprise.gather(-1, order)).exp(), mass))
    return identity if mass >= 1 else warp


def epsilon(least: float) -> Warp:
    """Keep tokens of probability `least` or more, and always the most likely one (Hewitt 2022, §4.1)."""
    return identity if least == 0 else _above(lambda surprise: math.log(least))


def eta(least: float) -> Warp:
    """Keep tokens above min(ε, √ε · exp(−entropy)), ε = `least`, and always the most likely one (Hewitt 2022, §4.2)."""
    return identity if least == 0 else _above(
        lambda surprise: (math.log(least) / 2 - _entropy(surprise)[..., None]).clamp(max=math.log(least)))


def top_nsigma(count: float) -> Warp:
    """Keep logits within `count` standard deviations (of all finite logits) of the largest one (Tang 2024, §3)."""
    def warp(logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        finite = logits.isfinite()
        mean = logits.where(finite, 0).sum(-1, keepdim=True) / finite.sum(-1, keepdim=True)
        square = (logits - mean).where(finite, 0).square().sum(-1, keepdim=True)
        deviation = (square / (finite.sum(-1, keepdim=True) - 1).clamp(min=1)).sqrt()
        return logits.masked_fill(logits < logits.amax(-1, keepdim=True) - count * deviation, -math.inf)
    return warp


def top_h(share: float, limit: int = 100) -> Warp:
    """Keep the most likely tokens whose terms −p log p add up to `share` of the entropy of the first `limit`."""
    def count(values: Tensor, order: Tensor) -> Tensor:
        surprise = -torch.log_softmax(values[..., :limit], -1)
        terms = torch.nan_to_num(surprise * (-surprise).exp())
        return (terms.cumsum(-1) <= share * terms.sum(-1, keepdim=True)).sum(-1)
    return lambda logits, sequences: _highest(logits, logits, count)


def _highest(logits: Tensor, scores: Tensor, count: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Mask all logits (N, V) but those with the highest `scores` (N, V), at least one; ties go to the lower id.

    `count` returns how many to keep (N,) from the M highest scores (N, M), falling, and their token ids (N, M). M is
    first small on a CPU, where sorting a vocabulary of 150,000 tokens takes longer than many a forward pass.
    """
    size = scores.shape[-1]
    for few in FEW if scores.device.type == "cpu" else ():
        if few < size:
            values, order = scores.topk(few, -1)
            numbers = count(values, order).clamp(min=1)
            if bool((numbers < few).all()):
                kept = scores >= values.gather(-1, numbers[..., None] - 1)
                if bool((kept.sum(-1) == numbers).all()):  # no tie with one that is not kept
                    return logits.masked_fill(~kept, -math.inf)
    values, order = scores.sort(dim=-1, descending=True, stable=True)
    first = torch.arange(size, device=scores.device) < count(values, order).clamp(min=1)[..., None]
    return logits.masked_fill(~torch.zeros_like(first).scatter(-1, order, first), -math.inf)


def _reaching(probs: Tensor, mass: float) -> Tensor:
    """Return the number (N,) of first probabilities (N, M) whose sum reaches `mass`, M if it is not reached."""
    return (probs.cumsum(-1) - probs < mass).sum(-1)


def _above(threshold: Callable[[Tensor], Tensor | float]) -> Warp:
    """Keep tokens of log-probability at least `threshold(surprisals)`, and always the most likely one."""
    def warp(logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        surprise = -torch.log_softmax(logits, -1)
        low = (-surprise < threshold(surprise)) & (surprise > surprise.amin(-1, keepdim=True))
        return logits.masked_fill(low, -math.inf)
    return warp


def _entropy(surprise: Tensor) -> Tensor:
    """Return the entropy (N,) in nats of distributions given by their surprisals (N, V)."""
    return torch.nan_to_num(surprise * (-surprise).exp()).sum(-1)


def compose(*warps: Warp) -> Warp:
    """Apply `warps` from left to right."""
    active = [warp for warp in warps if warp is not identity]

    def composed(logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        for warp in active:
            logits = warp(logits, sequences)
        return logits
    return composed if active else identity
