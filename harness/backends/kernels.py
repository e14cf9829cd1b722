"""Many texts at once on a processor: other kernels for the sums of a forward pass, equal up to rounding."""

import sys
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

PACKED = 1 << 30  # bytes of weights of which a packed copy is kept; those of larger models are packed in each forward
LARGE = 1 << 19   # multiplications from which on oneDNN's product pays
FEW = 16          # rows: fewer are read faster where they are than in groups
GROUP = 8         # rows looked at together: their keys and values still fit into a core's own cache
NAME = "decodebench"


class Linear(nn.Linear):
    """A linear layer without what a module's call costs: it runs no hooks, and its weights may not be replaced.

    `held` are its weight, its bias, the packed weight, and the size of an input from which on oneDNN multiplies: it is
    as fast on AMD's processors as on Intel's, while MKL, torch's own choice, has less to prepare.
    """

    held: tuple[Tensor, Tensor | None, Tensor, int]

    def forward(self, input: Tensor) -> Tensor:
        """(…, N) to (…, M)."""
        if torch.compiler.is_compiling():
            return functional.linear(input, self.weight, self.bias)
        weight, bias, packed, large = self.held
        if input.numel() < large:
            return functional.linear(input, weight, bias)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(input, packed, bias, "none", [], "")
        return out

    def __call__(self, input: Tensor) -> Tensor:
        """`forward`, or what a plan of left-out sublayers has put in its place."""
        own: Tensor = (self.__dict__.get("forward") or self.forward)(input)
        return own


def quicken(model: Any) -> None:
    """Let a float32 model on a processor use these kernels; leave any other as it is."""
    if model.device.type != "cpu" or model.dtype != torch.float32:
        return
    if model.config._attn_implementation == "sdpa" and model._supports_attention_backend:
        ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
        ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
        model.config._attn_implementation = NAME
    one = amd() and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    layers = [layer for layer in model.modules() if type(layer) is nn.Linear and layer.weight.dtype == torch.float32]
    small = sum(layer.weight.numel() * layer.weight.element_size() for layer in layers) <= PACKED
    for layer in layers:
        weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, FEW) if one and small else weight
        large = max(layer.in_features + 1, LARGE // layer.out_features)  # a single token is always MKL's
        layer.__class__ = Linear
        cast(Linear, layer).held = weight, bias, packed, large if one else sys.maxsize


def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
           ) -> tuple[Tensor, None]:
    """Attention of one new token a row, (B, H, 1, D): rows of like length together, so that little else is read."""
    whole: tuple[Tensor, None]
    if query.shape[2] > 1 or attention_mask is None or options.get("position_bias") is not None:
        whole = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    elif torch.compiler.is_compiling():
        whole = _spelt_out(query, key, value, attention_mask, options.get("scaling"))
    elif len(query) < FEW:
        whole = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    else:
        groups, back = _groups(attention_mask)
        parts = [sdpa_attention_forward(module, query[rows], key[:, :, :end].index_select(0, rows),
                                        value[:, :, :end].index_select(0, rows), mask, **options)[0]
                 for rows, end, mask in groups]
        whole = torch.cat(parts)[back], None
    return whole


def _spelt_out(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None) -> tuple[Tensor, None]:
    """The same in plain sums, from which the compiler makes code that is faster than the kernel for long queries."""
    rows, heads, _, size = query.shape
    split = query.view(rows, key.shape[1], -1, size) * (size**-0.5 if scaling is None else scaling)
    weights = (split @ key.transpose(2, 3) + mask).softmax(-1)
    return (weights @ value).view(rows, 1, heads, size), None


@lru_cache(4)  # the layers of a forward are given the same mask, or one for each kind of layer
def _groups(mask: Tensor) -> tuple[Sequence[tuple[Tensor, int, Tensor]], Tensor]:
    """Rows of an additive mask (B, 1, 1, S) by length: those of each group, its end and mask; and the way back."""
    seen = (mask > torch.finfo(mask.dtype).min / 2).any(1)[:, 0]
    lengths, order = (seen * torch.arange(1, mask.shape[-1] + 1)).amax(1).sort()
    ends, groups = lengths.tolist(), list[tuple[Tensor, int, Tensor]]()
    for first in range(0, len(ends), GROUP):
        rows, end = order[first:first + GROUP], ends[first:first + GROUP][-1]
        groups.append((rows, end, mask[rows, ..., :end]))
    return groups, order.argsort()


@cache
def amd() -> bool:
    """Whether this is an AMD processor, on which MKL, torch's own choice, takes slow paths."""
    known = Path("/proc/cpuinfo")
    return known.exists() and "AuthenticAMD" in known.read_text()
