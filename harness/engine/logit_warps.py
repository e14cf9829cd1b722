"""Logit warps change the logits before sampling; a strategy applies the same warps to draft model and target."""

import math
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

FEW = (256, 4096)  # numbers of highest scores that are sorted before the whole vocabulary is
ROUNDING = 1e-6    # of log-probabilities in float32: equal ones count as equal
COLDEST = 1e-6     # a lower temperature divides as this one, which leaves the likeliest token alone
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


def p_less(norm: bool = False) -> Warp:
    """Keep tokens of at least the probability with which two draws agree, L = Σ p² (Tan 2025, 2509.23234, §3).

    With `norm` the threshold is (V·L − 1)/(V − 1), where V counts the tokens that are possible.
    """
    def threshold(surprise: Tensor) -> Tensor:
        agree = torch.logsumexp(-2 * surprise, -1, keepdim=True)
        if norm:
            size = surprise.isfinite().sum(-1, keepdim=True)
            agree = ((size * agree.exp() - 1) / (size - 1).clamp(min=1)).clamp(min=0).log()
        return agree - ROUNDING
    return _above(threshold)


def top_a(share: float) -> Warp:
    """Keep tokens of at least `share` times the square of the highest probability (BlinkDL, RWKV-LM)."""
    return identity if share == 0 else _above(
        lambda surprise: math.log(share) - 2 * surprise.amin(-1, keepdim=True))


def min_k(tau: float) -> Warp:
    """Keep the tokens before the steepest fall of the sorted logits, or ⌊`tau`/R⌋ if that is more (2604.11012, alg. 1).

    R is the range of the finite logits, and the fall after rank i is its part of R divided by i; ties stay together.
    """
    def warp(logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        least = logits.where(logits.isfinite(), math.inf).amin(-1, keepdim=True)
        span = logits.amax(-1, keepdim=True) - least + 1e-8

        def count(values: Tensor, order: Tensor) -> Tensor:
            size, known = values.shape[-1], torch.maximum(values, least)
            falls = -known.diff() / (torch.arange(1, size, device=values.device) * span)
            number = torch.maximum(falls.argmax(-1, keepdim=True) + 1, (tau / span).long()).clamp(1, size)
            number = (known >= known.gather(-1, number - 1)).sum(-1)
            beyond = (known[..., -1] - least[..., 0]) / (size * span[..., 0])  # no fall among the others is steeper
            return number.where(falls.amax(-1) >= beyond, size)
        return _highest(logits, logits, count)
    return warp


def tail_free(mass: float) -> Warp:
    """Keep ranks until the second differences of the sorted probabilities add up to more than `mass` of their sum.

    The first rank always stays and the last one never does (Bricken).
    """
    def warp(logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        probs, order = torch.softmax(logits, -1).sort(dim=-1, descending=True, stable=True)
        curvature = probs.diff().diff().abs()
        reached = curvature.cumsum(-1) / curvature.sum(-1, keepdim=True).clamp(min=torch.finfo(probs.dtype).tiny)
        return _first(logits, order, 1 + (reached <= mass).sum(-1))
    return identity if mass >= 1 else warp


def quadratic(factor: float, curve: float) -> Warp:
    """Lower each logit by a square, and above `curve` 1 also a cube, of its distance from the largest (kalomaze)."""
    def warp(logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        largest = logits.amax(-1, keepdim=True)
        below = (largest - logits).where(logits.isfinite(), 0)
        bent = largest - factor * below.square() * ((3 - curve) + (curve - 1) * below) / 2
        return bent.where(logits.isfinite(), logits)
    return identity if factor == 0 else warp


def xtc(threshold: float, protected: Collection[int] = ()) -> Warp:
    """Mask all tokens of probability `threshold` or more but the least likely of them (p-e-w 2024).

    A row in which one of the `protected` tokens would be masked stays unchanged.
    """
    def warp(logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        probs = torch.softmax(logits, -1)
        top = probs >= threshold
        last = probs.where(top, math.inf).argmin(-1, keepdim=True)
        out = top.scatter(-1, last, False)
        if ids := sorted(token for token in protected if token < logits.shape[-1]):
            out = out & ~out[..., ids].any(-1, keepdim=True)
        return logits.masked_fill(out, -math.inf)
    return warp


def by_entropy(temperature: Callable[[Tensor, Tensor], Tensor]) -> Warp:
    """Divide each row by a temperature of its own: `temperature(entropy, size)`, all (N, 1).

    The entropy is in nats, and the size counts the tokens that are possible. At 0 the likeliest token remains.
    """
    def warp(logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        entropy = _entropy(-torch.log_softmax(logits, -1))[..., None].clamp(min=0)
        heat = temperature(entropy, logits.isfinite().sum(-1, keepdim=True))
        return (logits - logits.amax(-1, keepdim=True)) / heat.clamp(min=COLDEST)
    return warp


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
    return _first(logits, order, count(values, order).clamp(min=1))


def _first(logits: Tensor, order: Tensor, numbers: Tensor) -> Tensor:
    """Mask all logits (N, V) but those of the first `numbers` (N,) token ids in `order` (N, V)."""
    first = torch.arange(order.shape[-1], device=order.device) < numbers[..., None]
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
