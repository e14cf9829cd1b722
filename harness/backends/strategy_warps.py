"""The logit warps of samplers and penalties, for use inside other engines."""

from collections.abc import Callable, Sequence

from torch import Tensor

from harness.decoding.penalty import Penalty
from harness.decoding.sampled import Sampler
from harness.engine import logit_warps
from harness.plugins.strategy import Strategy

LogitsProcessor = Callable[[Sequence[int], Sequence[int], Tensor], Tensor]
"""`(prompt, answer so far, logits (V,)) → warped logits (V,)`."""


def logits_processor(strategy: Strategy) -> LogitsProcessor:
    """Return the logits processor of a strategy, temperature included, so that the engine samples at temperature 1."""
    def process(prompt: Sequence[int], answer: Sequence[int], logits: Tensor) -> Tensor:
        warp = warps(strategy, len(prompt))
        return warp(logits.float()[None], [[*prompt, *answer]])[0].to(logits.dtype)
    return process


def warps(strategy: Strategy, start: int) -> logit_warps.Warp:
    """Return the warps of `strategy`, in the order of the reference, for sequences whose answer begins at `start`."""
    if isinstance(strategy, Penalty):
        return logit_warps.compose(strategy.warp(start), warps(strategy.over, start))
    if isinstance(strategy, Sampler) and strategy.temperature:
        return logit_warps.compose(logit_warps.temperature(strategy.temperature), strategy.kept())
    return logit_warps.identity
