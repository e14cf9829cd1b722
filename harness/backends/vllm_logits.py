"""A logits processor for vLLM that applies the logit warps of each request's strategy."""

from typing import Any

from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from harness.backends.strategy_warps import logits_processor
from harness.plugins.registry import STRATEGIES


class Warps(AdapterLogitsProcessor):  # type: ignore[misc]
    """Warps the logits of requests that name a strategy in `extra_args["decodebench"]`."""

    def is_argmax_invariant(self) -> bool:
        """Return False, because a penalty may change the likeliest token."""
        return False

    def new_req_logits_processor(self, params: Any) -> Any:
        """Return the logits processor of a request, or None."""
        spec = (params.extra_args or {}).get("decodebench")
        return logits_processor(STRATEGIES.build(spec), params.seed, params.stop_token_ids or ()) if spec else None
