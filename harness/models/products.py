"""Chooses the product of each linear layer on a CPU: torch's own, or that of oneDNN, which packs the weights once.

Which one is faster depends on the processor, the precision, the shape of the weights and the number of tokens. A model
that is slower on one token than need be makes every method that verifies several tokens look good.
"""

import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SMALL = 50_000_000       # parameters below which nothing is measured, so that nano's tokens never depend on noise
DOUBLED = 1 << 30        # bytes of weights up to which both the weights and their packed copy are kept
LARGE = 1 << 19          # multiplications from which oneDNN is faster on AMD
WIDTHS = (1, 2, 4, 8, 16)  # numbers of tokens at which both products are timed
COLD = 1 << 25           # bytes of weights that are read in turn, so that a core does not find them in its cache
ROUNDS = 3
NEVER = sys.maxsize


class FastLinear(nn.Linear):
    """A linear layer with the parameters of `layer`, without the overhead of a module call and its hooks.

    From `first` tokens on, oneDNN multiplies with `packed`. The parameters must not be replaced later. Where oneDNN
    multiplies any number of tokens, `drop` frees the layer's own weight.
    """

    def __init__(self, layer: nn.Linear, packed: Tensor, first: int, drop: bool = False) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta",
                         dtype=layer.weight.dtype)
        if not drop:
            self.weight = layer.weight
        self.bias = layer.bias
        self.tensors = self.weight.detach(), None if layer.bias is None else layer.bias.detach(), packed
        self.first, self.large = first, first * layer.in_features
        self.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        """Map (…, N) to (…, M)."""
        if torch.compiler.is_compiling():
            return functional.linear(input, self.weight, self.bias)
        weight, bias, packed = self.tensors
        if input.numel() < self.large:
            return functional.linear(input, weight, bias)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(input, packed, bias, "none", [], "")
        return out

    def __call__(self, input: Tensor) -> Tensor:
        """Run `forward`, which a hook may have replaced."""
        return self.forward(input)


def use_fast_products(model: Any, *, compiled: bool = False) -> dict[str, str]:
    """Replace the linear layers of a model on a CPU, and return which numbers of tokens use oneDNN, by shape.

    Both products are timed with torch's present number of threads; a small model follows a fixed rule instead, and
    nothing is returned. A model above `DOUBLED` bytes keeps one copy of its weights, unless it will be `compiled`.
    """
    layers = {name: layer for name, layer in model.named_modules()
              if type(layer) is nn.Linear and layer.weight.dtype == model.dtype}
    if model.device.type != "cpu" or not layers or not _packs(model.dtype):
        return {}
    shapes = dict[tuple[int, int], list[nn.Linear]]()
    for layer in layers.values():
        shapes.setdefault((layer.out_features, layer.in_features), []).append(layer)
    small = sum(weight.numel() for weight in model.parameters()) < SMALL
    single = not compiled and sum(layer.weight.nbytes for layer in layers.values()) > DOUBLED
    firsts = {shape: _by_rule(*shape, model.dtype) if small else _by_time(same, single)
              for shape, same in shapes.items()}
    table = model.get_input_embeddings().weight
    for name, layer in layers.items():
        first = firsts[layer.out_features, layer.in_features]
        packed = layer.weight.detach() if first == NEVER else _packed(layer)
        model.set_submodule(name, FastLinear(layer, packed, first, single and first == 1 and layer.weight is not table))
    return {} if small else {f"{n} × {m}": _in_words(first) for (m, n), first in sorted(firsts.items())}


def _in_words(first: int) -> str:
    return {1: "oneDNN", NEVER: "torch"}.get(first, f"oneDNN from {first} tokens")


def _packs(dtype: torch.dtype) -> bool:
    """Return whether oneDNN multiplies packed weights of this precision here."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _packed(layer: nn.Linear) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), WIDTHS[-1])
    return packed


def _by_rule(outputs: int, inputs: int, dtype: torch.dtype) -> int:
    """Return the first number of tokens for oneDNN in a small model, which is faster in bfloat16 and on AMD."""
    if dtype == torch.bfloat16:
        return 1
    return max(2, -(-LARGE // (outputs * inputs))) if amd() else NEVER


@torch.inference_mode()
def _by_time(layers: Sequence[nn.Linear], single: bool) -> int:
    """Return the number of tokens from which oneDNN is faster; if `single`, 1 or `NEVER`."""
    some = layers[:max(1, COLD // layers[0].weight.nbytes)]
    packed = [_packed(layer) for layer in some]
    return fastest([_seconds(some, packed, width) for width in WIDTHS], single)


def fastest(seconds: Sequence[tuple[float, float]], single: bool = False) -> int:
    """Return the number of tokens from which oneDNN should multiply, from the seconds of both products at `WIDTHS`.

    Every width counts alike, in units of its faster product. If `single`, one product is used for all.
    """
    costs = dict[int, float]()
    for index, first in enumerate((*WIDTHS, NEVER)):
        if not single or first in (1, NEVER):
            costs[first] = sum(pair[number >= index] / min(pair) for number, pair in enumerate(seconds))
    return min(costs, key=costs.__getitem__)


def _seconds(layers: Sequence[nn.Linear], packed: Sequence[Tensor], width: int) -> tuple[float, float]:
    """Return the seconds of torch's and oneDNN's products of `width` tokens, the best of `ROUNDS` that take turns."""
    tokens = torch.ones(1, width, layers[0].in_features, dtype=layers[0].weight.dtype)
    products: Sequence[Callable[[], object]] = (
        lambda: [functional.linear(tokens, layer.weight, layer.bias) for layer in layers],
        lambda: [torch.ops.mkldnn._linear_pointwise(tokens, one, layer.bias, "none", [], "")
                 for layer, one in zip(layers, packed, strict=True)])
    best = [float("inf")] * 2
    for _ in range(ROUNDS):
        for number, product in enumerate(products):
            began = time.perf_counter()
            product()
            best[number] = min(best[number], time.perf_counter() - began)
    return best[0], best[1]


@cache
def amd() -> bool:
    """Return whether the processor is by AMD."""
    info = Path("/proc/cpuinfo")
    return info.exists() and "AuthenticAMD" in info.read_text()
