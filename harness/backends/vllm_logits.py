"""Our own warps inside vLLM: a logits processor that bends each request's logits as its strategy does."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from harness.decoding import warp
from harness.decoding.penalty import Penalty
from harness.decoding.sampled import Sampler
from harness.registry import STRATEGIES
from harness.strategy import Strategy


class Bend(AdapterLogitsProcessor):  # type: ignore[misc]
    """Requests name their strategy in `extra_args["decodebench"]`; others are left alone."""

    def is_argmax_invariant(self) -> bool:
        """No: a penalty may change the likeliest token."""
        return False

    def new_req_logits_processor(self, params: Any) -> Any:
        """A function of prompt, answer so far and logits (V,), or None."""
        spec = (params.extra_args or {}).get("decodebench")
        return bend(STRATEGIES.build(spec)) if spec else None


def bend(strategy: Strategy) -> Any:
    """What the logits (V,) of a text go through, temperature included, before a token is drawn."""
    def bent(prompt: Sequence[int], answer: Sequence[int], logits: Tensor) -> Tensor:
        law = bends(strategy, len(prompt))
        return law(logits.float()[None], [[*prompt, *answer]])[0].to(logits.dtype)
    return bent


def bends(strategy: Strategy, start: int) -> warp.Warp:
    """The warps of `strategy` in the order of the reference, in a text whose new tokens begin at `start`."""
    if isinstance(strategy, Penalty):
        return warp.compose(strategy.warp(start), bends(strategy.over, start))
    if isinstance(strategy, Sampler) and strategy.temperature:
        return warp.compose(warp.temperature(strategy.temperature), strategy.kept())
    return warp.identity
