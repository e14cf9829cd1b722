"""What the logits of a text go through in a strategy that only bends them, for engines that are not ours."""

from collections.abc import Callable, Sequence

from torch import Tensor

from harness.decoding.penalty import Penalty
from harness.decoding.sampled import Sampler
from harness.engine import logit_warps
from harness.plugins.strategy import Strategy

Bent = Callable[[Sequence[int], Sequence[int], Tensor], Tensor]


def bent(strategy: Strategy) -> Bent:
    """`(prompt, answer so far, logits (V,)) → logits (V,)`, temperature included; then a token is drawn as it is."""
    def bend(prompt: Sequence[int], answer: Sequence[int], logits: Tensor) -> Tensor:
        law = warps(strategy, len(prompt))
        return law(logits.float()[None], [[*prompt, *answer]])[0].to(logits.dtype)
    return bend


def warps(strategy: Strategy, start: int) -> logit_warps.Warp:
    """The warps of `strategy` in the order of the reference, in a text whose new tokens begin at `start`."""
    if isinstance(strategy, Penalty):
        return logit_warps.compose(strategy.warp(start), warps(strategy.over, start))
    if isinstance(strategy, Sampler) and strategy.temperature:
        return logit_warps.compose(logit_warps.temperature(strategy.temperature), strategy.kept())
    return logit_warps.identity
