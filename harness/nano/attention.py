"""Unfused causal attention, whose backward pass in bf16 on a CPU is several times faster than the fused one."""

from typing import Any

import torch
from transformers import AttentionInterface

NAME = "nano_causal"


def causal_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Return the mixed values [batch, length, heads, width]; query, key and value are [batch, heads, length, width].

    For training only: every query sees the keys up to its own place, padding on the right is of no account.
    """
    length = query.shape[2]
    future = torch.full((length, length), float("-inf"), dtype=query.dtype, device=query.device).triu(1)
    shares = (query * scaling @ key.transpose(-1, -2) + future).softmax(-1)
    return (shares.to(value.dtype) @ value).transpose(1, 2), None


AttentionInterface.register(NAME, causal_attention)
