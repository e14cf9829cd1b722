"""Our own warps inside vLLM: a logits processor that warps each request's logits as its strategy does."""

from typing import Any

from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from harness.backends.strategy_warps import bent
from harness.plugins.registry import STRATEGIES


class Warps(AdapterLogitsProcessor):  # type: ignore[misc]
    """Requests name their strategy in `extra_args["decodebench"]`; others are left alone."""

    def is_argmax_invariant(self) -> bool:
        """No: a penalty may change the likeliest token."""
        return False

    def new_req_logits_processor(self, params: Any) -> Any:
        """A function of prompt, answer so far and logits (V,), or None."""
        spec = (params.extra_args or {}).get("decodebench")
        return bent(STRATEGIES.build(spec)) if spec else None
