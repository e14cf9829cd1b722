"""The logit warps of samplers and penalties, for use inside other engines."""

from collections.abc import Callable, Collection, Sequence

from torch import Tensor

from harness.decoding.penalty import Penalty
from harness.decoding.sampled import Sampler
from harness.engine import logit_warps
from harness.engine.random_stream import PhiloxStream
from harness.plugins.strategy import Request, Strategy

LogitsProcessor = Callable[[Sequence[int], Sequence[int], Tensor], Tensor]
"""`(prompt, answer so far, logits (V,)) → warped logits (V,)`."""


def logits_processor(strategy: Strategy, seed: int | None = None, eos: Collection[int] = ()) -> LogitsProcessor:
    """Return the logits processor of a strategy, temperature included, so that the engine samples at temperature 1.

    `seed` is that of the request, for warps that need random numbers, and `eos` its end tokens.
    """
    stream, ends = PhiloxStream("logits processor", seed), frozenset(eos)

    def process(prompt: Sequence[int], answer: Sequence[int], logits: Tensor) -> Tensor:
        warp = warps(strategy, Request(tuple(prompt), len(answer) + 1, stream, ends))
        return warp(logits.float()[None], [[*prompt, *answer]])[0].to(logits.dtype)
    return process


def warps(strategy: Strategy, request: Request) -> logit_warps.Warp:
    """Return the warps of `strategy` for one request, in the order of the reference."""
    if isinstance(strategy, Penalty):
        return logit_warps.compose(strategy.warp(len(request.prompt)), warps(strategy.over, request))
    return strategy.warp(request) if isinstance(strategy, Sampler) else logit_warps.identity
