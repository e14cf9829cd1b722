"""A hook that rounds the weights of the linear layers to a few bits in one forward pass."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from harness.engine.hooks import ModelParts, replaced

UNROUNDED = 16                      # bits from which nothing is rounded
PACKED_GROUPS = (32, 64, 128, 256)  # sizes of groups that torch multiplies with four bits each
PACKED_ROWS = 16                    # what the number of outputs must be a multiple of then


class Rounded(NamedTuple):
    """Weights (M, N) as integers (M, N) from 0 on, each of which stands for `low` + integer · `step` of its group.

    `step` and `low` are (M, G) for G groups of neighbours in a row.
    """

    integers: Tensor
    step: Tensor
    low: Tensor
    group: int

    @property
    def values(self) -> Tensor:
        """The weights (M, N) that the integers stand for, in float32."""
        count = self.integers.shape[1]
        step, low = (each.repeat_interleave(self.group, 1)[:, :count] for each in (self.step, self.low))
        return low + self.integers * step


@dataclass(frozen=True)
class RoundedWeights:
    """Rounds the weights of all linear layers within the decoder layers to `bits` bits, to the nearest of equal steps.

    Each `group` of neighbours in a row, or with 0 each row, has steps of its own from its lowest to its highest weight.
    The embedding, the norms, the output layer and weights of experts that are no linear layers stay as they are, and so
    do all from `UNROUNDED` bits on. Rounded weights stay in memory beside the model's own.
    """

    bits: int
    group: int

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[None]:
        """Round the weights in one forward pass; they are computed in the first one."""
        if self not in parts.prepared:
            parts.prepared[self] = self._forwards(parts) if self.bits < UNROUNDED else {}
        with replaced(parts.prepared[self]):
            yield

    @torch.inference_mode()
    def _forwards(self, parts: ModelParts) -> Mapping[nn.Module, Callable[[Tensor], Tensor]]:
        """Return the function that replaces each linear layer."""
        layers = [module for layer in parts.layers for module in layer.whole.modules()
                  if isinstance(module, nn.Linear | Conv1D)]
        return {layer: _product(layer, rounded(_weight(layer), self.bits, self.group), self.bits) for layer in layers}


def rounded(weight: Tensor, bits: int, group: int) -> Rounded:
    """Round weights (M, N) to 2 ** `bits` values for each `group` of neighbours in a row, or with 0 for each row."""
    group, highest = min(group or weight.shape[1], weight.shape[1]), 2 ** bits - 1
    parts: Sequence[Tensor] = torch.split(weight.float(), group, 1)
    low = torch.stack([part.amin(1) for part in parts], 1)
    step = (torch.stack([part.amax(1) for part in parts], 1) - low) / highest
    step = step.where(step > 0, 1.0)
    integers = torch.cat([((part - low[:, i:i + 1]) / step[:, i:i + 1]).round().clamp(0, highest)
                          for i, part in enumerate(parts)], 1)
    return Rounded(integers.to(torch.int32), step, low, group)


def _weight(layer: Any) -> Tensor:
    """Return the weights (M, N) of a linear layer from N to M numbers."""
    weight: Tensor = layer.tensors[2] if layer.weight.is_meta else layer.weight  # packed only: `FastLinear`
    return weight.t() if isinstance(layer, Conv1D) else weight.to_dense()


def _product(layer: Any, weight: Rounded, bits: int) -> Callable[[Tensor], Tensor]:
    """Return the product with rounded weights, which replaces that of `layer`.

    On a CPU with AVX, a bfloat16 model is multiplied with four bits a weight, which takes less time; otherwise the
    rounded weights have the precision of the model, and take as long as the others.
    """
    rows, columns = weight.integers.shape
    dtype, device = layer.weight.dtype, weight.integers.device
    if (bits == 4 and dtype == torch.bfloat16 and device.type == "cpu" and weight.group in PACKED_GROUPS
            and columns % weight.group == 0 and rows % PACKED_ROWS == 0
            and torch.backends.cpu.get_cpu_capability().startswith("AVX")):
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(weight.integers, 1)
        steps = torch.stack([weight.step, weight.low + 8 * weight.step], -1).transpose(0, 1).to(dtype).contiguous()
        return partial(_packed, packed, weight.group, steps, layer.bias)
    return partial(_plain, weight.values.to(dtype), layer.bias)


def _plain(weight: Tensor, bias: Tensor | None, input: Tensor) -> Tensor:
    return linear(input, weight, bias)


def _packed(weight: Tensor, group: int, steps: Tensor, bias: Tensor | None, input: Tensor) -> Tensor:
    flat = input.reshape(-1, input.shape[-1])
    out: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(flat, weight, group, steps)
    return (out if bias is None else out + bias).view(*input.shape[:-1], -1)
