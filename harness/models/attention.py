"""Attention of large batches on a CPU, equal to that of torch up to rounding."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

FEW = 16          # rows; fewer rows attend faster in one call than in groups
GROUP = 8         # rows that attend together: their keys and values fit into the cache of a core
BLOCK = 32        # keys per block of the compiled attention
NAME = "decodebench"


def use_fast_attention(model: Any) -> None:
    """Make a float32 model on a CPU attend with `attend`; any other model stays unchanged."""
    if model.device.type != "cpu" or model.dtype != torch.float32:
        return
    if model.config._attn_implementation == "sdpa" and model._supports_attention_backend:
        ALL_ATTENTION_FUNCTIONS.register(NAME, attend)  # permanent: looked up by the name in the configuration
        ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
        model.config._attn_implementation = NAME


def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
           ) -> tuple[Tensor, None]:
    """Compute attention of one new token per row, (B, H, 1, D), over few padded keys; other shapes use sdpa."""
    compiling = torch.compiler.is_compiling()
    if (query.shape[2] > 1 or len(query) < (2 if compiling else FEW) or attention_mask is None
            or options.get("position_bias") is not None or (compiling and options.get("sliding_window"))):
        output: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return output
    if compiling:
        return _blocks(query, key, value, _ends(attention_mask), options.get("scaling")), None
    groups, back = _groups(attention_mask)
    parts = [sdpa_attention_forward(module, query[rows], key[:, :, :end].index_select(0, rows),
                                    value[:, :, :end].index_select(0, rows), mask, **options)[0]
             for rows, end, mask in groups]
    return torch.cat(parts)[back], None


def _blocks(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, scaling: float | None) -> Tensor:
    """Compute attention (B, 1, H, D) in a compiled forward without the key blocks behind the end (B,) of each row.

    A row attends to all slots before its end, because the engine compiles no forward of single tokens with a mask.
    """
    rows, slots = query.shape[0], key.shape[2]  # not the mask's sizes, which the compiler treats as different
    blocks = (slots + BLOCK - 1) // BLOCK
    order = torch.arange(blocks, dtype=torch.int32).expand(rows, 1, 1, blocks).contiguous()
    mask = BlockMask.from_kv_blocks(
        ((ends + BLOCK - 1) // BLOCK).to(torch.int32).view(rows, 1, 1), order, BLOCK_SIZE=(BLOCK, BLOCK),
        mask_mod=lambda row, head, query, key: key < ends[row], seq_lengths=(1, slots))
    out = flex_attention(query, key, value, block_mask=mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1])
    assert isinstance(out, Tensor)
    return out.transpose(1, 2)


def _ends(mask: Tensor) -> Tensor:
    """Return the end (B,) of the slots that the token of each row attends to, from an additive mask (B, 1, 1, S)."""
    attended = (mask > torch.finfo(mask.dtype).min / 2).any(1)[:, 0]
    return (attended * torch.arange(1, mask.shape[-1] + 1)).amax(1)


@lru_cache(4)  # all layers of one kind get the same mask
def _groups(mask: Tensor) -> tuple[Sequence[tuple[Tensor, int, Tensor]], Tensor]:
    """Group the rows of an additive mask (B, 1, 1, S) by length: (rows, end, mask) per group, and the inverse order."""
    lengths, order = _ends(mask).sort()
    ends, groups = lengths.tolist(), list[tuple[Tensor, int, Tensor]]()
    for first in range(0, len(ends), GROUP):
        rows, end = order[first:first + GROUP], ends[first:first + GROUP][-1]
        groups.append((rows, end, mask[rows, ..., :end]))
    return groups, order.argsort()
