"""Detects faults of vLLM's CPU build that change its samples, and repairs them in the engine's process."""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SWITCH = "DECODEBENCH_VLLM_MEND"  # "off" leaves the faults in, to test that `decodebench verify` detects them


def wanted() -> bool:
    """Return whether faults are to be repaired."""
    return os.environ.get(SWITCH, "on").lower() not in ("off", "0", "no", "false")


def mend() -> dict[str, bool]:
    """Detect the `FAULTS` and repair them unless that is switched off; returns fault → whether it is repaired."""
    faults = {name: repair for name, (broken, repair) in FAULTS.items() if broken()}
    for repair in faults.values() if wanted() else ():
        repair()
    return dict.fromkeys(faults, wanted())


def _temperature_is_lost() -> bool:
    """Return whether the kernel that copies a sequence's temperature to its drafted tokens fails, as in 0.32."""
    try:
        from vllm.platforms import current_platform
        from vllm.triton_utils import HAS_TRITON
        from vllm.utils import cpu_triton_utils as kernels

        if not current_platform.is_cpu() or HAS_TRITON:
            return False
        current_platform.import_kernels()
        out = torch.full((2,), -5.0)
        kernels._expand_kernel_impl(out, torch.tensor([0.5]), torch.tensor([2], dtype=torch.int32), 0, 0)
        return out.tolist() != [0.5, 0.5]
    except (ImportError, AttributeError):
        return False


def _expand() -> None:
    from vllm.v1.sample import rejection_sampler

    rejection_sampler.expand_batch_to_tokens = expanded


def expanded(x: Tensor, cu_num_tokens: Tensor, num_tokens: int, replace_from: float = 0, replace_to: float = 0
             ) -> Tensor:
    """Repeat each element of `x` (B,) for the tokens of its sequence, given as cumulative counts; replace one value."""
    counts = cu_num_tokens.diff(prepend=cu_num_tokens.new_zeros(1))
    out = x.repeat_interleave(counts, output_size=num_tokens)
    return out if replace_from == replace_to else out.masked_fill(out == replace_from, replace_to)


def _no_drafts_crash() -> bool:
    """Return whether top-k fails in a step without drafts."""
    try:
        from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_only

        apply_top_k_only(torch.empty(0, 8), torch.empty(0, dtype=torch.int32))
    except (RuntimeError, IndexError):
        return True
    except ImportError:
        return False
    return False


def _top_k() -> None:
    from vllm.v1.sample.ops import topk_topp_sampler as module

    original: Callable[..., Any] = module.apply_top_k_only

    def apply_top_k_only(logits: Tensor, k: Tensor) -> Any:
        return original(logits, k) if len(logits) else logits
    module.apply_top_k_only = apply_top_k_only


FAULTS: dict[str, tuple[Callable[[], bool], Callable[[], None]]] = {
    "temperature of drafts": (_temperature_is_lost, _expand),
    "top-k without drafts": (_no_drafts_crash, _top_k),
}
