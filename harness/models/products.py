"""Chooses the product of each linear layer on a CPU: torch's, from either layout of the weights, or that of oneDNN.

Which one is fastest depends on the processor, the precision, the shape of the weights and the number of tokens. A model
that is slower on one token than need be makes every method that verifies several tokens look good.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

SMALL = 50_000_000       # parameters below which nothing is measured, so that nano's tokens never depend on noise
DOUBLED = 1 << 30        # bytes of weights up to which both the weights and their packed copy are kept
LARGE = 1 << 19          # multiplications from which oneDNN is faster on AMD
WIDTHS = (1, 2, 4, 8, 16)  # numbers of tokens at which the products are timed
COLD = 1 << 26           # bytes of weights that are read in turn, so that a core does not find them in its cache
ROUNDS = 3
NEVER = sys.maxsize
READ = "dt_proj"         # Mamba reads the weights of this layer and does not call it

ROWS, VECTOR, COLUMNS, ONEDNN = "torch", "torch mv", "torch transposed", "oneDNN"
BASES = (ROWS, VECTOR, COLUMNS)


class Choice(NamedTuple):
    """The product of a layer: `base` for less than `first` tokens, that of oneDNN from `first` tokens on.

    `base` is `ROWS`, torch's linear layer; `VECTOR`, the same but `torch.mv` for a single token; or `COLUMNS`, torch's
    linear layer with weights that are stored transposed.
    """

    base: str
    first: int

    def __str__(self) -> str:
        if self.first == 1:
            return ONEDNN
        return self.base if self.first == NEVER else f"{self.base}, {ONEDNN} from {self.first} tokens"


class FastLinear(nn.Linear):
    """A linear layer with the parameters of `layer`, without the overhead of a module call and its hooks.

    The parameters must not be replaced later. If `single`, the layer keeps one copy of its weights. The weights of an
    embedding, `shared`, stay as they are.
    """

    def __init__(self, layer: nn.Linear, choice: Choice, *, single: bool = False, shared: bool = False) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta",
                         dtype=layer.weight.dtype)
        weight = _transposed(layer) if choice.base == COLUMNS else layer.weight.detach()
        packed = weight if choice.first == NEVER else _packed(layer)
        if single and choice.first == 1:
            weight = packed
        if shared or not (single and choice.first == 1):
            self.weight = nn.Parameter(weight, False) if choice.base == COLUMNS and not shared else layer.weight
        self.bias = layer.bias
        self.tensors = weight, None if layer.bias is None else layer.bias.detach(), packed
        self.choice, self.large = choice, choice.first * layer.in_features
        self.vector = layer.in_features if choice.base == VECTOR else NEVER
        self.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        """Map (…, N) to (…, M)."""
        if torch.compiler.is_compiling():
            return functional.linear(input, self.weight, self.bias)
        weight, bias, packed = self.tensors
        size = input.numel()
        if size >= self.large:
            out: Tensor = torch.ops.mkldnn._linear_pointwise(input, packed, bias, "none", [], "")
            return out
        return functional.linear(input, weight, bias) if size != self.vector else _vector(input, weight, bias)

    def __call__(self, input: Tensor) -> Tensor:
        """Run `forward`, which a hook may have replaced."""
        return self.forward(input)


def use_fast_products(model: nn.Module, *, both: bool = False) -> dict[str, str]:
    """Replace the linear layers of a model or head on a CPU, and return what multiplies each shape, in words.

    The products are timed with torch's present number of threads; a small model follows a fixed rule instead, and
    nothing is returned. A model above `DOUBLED` bytes keeps one copy of its weights, unless it needs `both`.
    """
    first = next(model.parameters())
    layers = {name: layer for name, layer in model.named_modules()
              if type(layer) is nn.Linear and layer.weight.dtype == first.dtype and not name.endswith(READ)}
    if first.device.type != "cpu" or not layers or not _packs(first.dtype):
        return {}
    shapes = dict[tuple[int, int], list[nn.Linear]]()
    for layer in layers.values():
        shapes.setdefault((layer.out_features, layer.in_features), []).append(layer)
    small = sum(weight.numel() for weight in model.parameters()) < SMALL
    single = not both and sum(layer.weight.nbytes for layer in layers.values()) > DOUBLED
    choices = {shape: _by_rule(*shape, first.dtype) if small else _by_time(same, single)
               for shape, same in shapes.items()}
    tables = {id(table.weight) for table in model.modules() if isinstance(table, nn.Embedding)}
    shapes.clear()
    while layers:  # a layer is freed before the next is copied: a large model fits in memory once
        name, layer = layers.popitem()
        choice = choices[layer.out_features, layer.in_features]
        model.set_submodule(name, FastLinear(layer, choice, single=single, shared=id(layer.weight) in tables))
    return {} if small else {f"{n} × {m}": str(choice) for (m, n), choice in sorted(choices.items())}


def _packs(dtype: torch.dtype) -> bool:
    """Return whether oneDNN multiplies packed weights of this precision here."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _packed(layer: nn.Linear) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), WIDTHS[-1])
    return packed


def _transposed(layer: nn.Linear) -> Tensor:
    """Return the weights (M, N) with M as the dimension that is contiguous in memory."""
    return layer.weight.detach().t().contiguous().t()


def _vector(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply a single token (…, N) by torch's product of a matrix and a vector."""
    vector = input.reshape(-1)
    out = torch.mv(weight, vector) if bias is None else torch.addmv(bias, weight, vector)
    return out.view(*input.shape[:-1], -1)


def _by_rule(outputs: int, inputs: int, dtype: torch.dtype) -> Choice:
    """Return the product of a layer in a small model; oneDNN is faster in bfloat16 and on AMD."""
    if dtype == torch.bfloat16:
        return Choice(ROWS, 1)
    return Choice(ROWS, max(2, -(-LARGE // (outputs * inputs))) if amd() else NEVER)


@torch.inference_mode()
def _by_time(layers: Sequence[nn.Linear], single: bool) -> Choice:
    """Return the product that takes the least time; if `single`, one that needs one copy of the weights."""
    some = layers[:max(1, COLD // layers[0].weight.nbytes)]
    columns, packed = [_transposed(layer) for layer in some], [_packed(layer) for layer in some]
    ways: dict[str, Callable[[Tensor], object]] = {
        ROWS: lambda tokens: [functional.linear(tokens, layer.weight, layer.bias) for layer in some],
        VECTOR: lambda tokens: [_vector(tokens, layer.weight, layer.bias) for layer in some],
        COLUMNS: lambda tokens: [functional.linear(tokens, weight, layer.bias)
                                 for layer, weight in zip(some, columns, strict=True)],
        ONEDNN: lambda tokens: [torch.ops.mkldnn._linear_pointwise(tokens, weight, layer.bias, "none", [], "")
                                for layer, weight in zip(some, packed, strict=True)]}
    seconds = list[dict[str, float]]()
    for width in WIDTHS:
        tokens = torch.ones(1, width, layers[0].in_features, dtype=layers[0].weight.dtype)
        seconds.append(_seconds({name: way for name, way in ways.items() if name != VECTOR or width == 1}, tokens))
    return fastest(seconds, single)


def fastest(seconds: Sequence[Mapping[str, float]], single: bool = False) -> Choice:
    """Return the product that takes the least time, from the seconds of each at `WIDTHS`, of `VECTOR` only at 1.

    Seconds are in units of the fastest product at each width; one token counts as much as all other widths together,
    because every method is compared with decoding token by token. If `single`, one copy of the weights must do.
    """
    costs = dict[Choice, float]()
    for base in BASES:
        for index, first in enumerate((*WIDTHS, NEVER)):
            if not single or first in (1, NEVER):
                used = [ONEDNN if number >= index else base if base in times else ROWS
                        for number, times in enumerate(seconds)]
                one, *others = [times[way] / min(times.values()) for way, times in zip(used, seconds, strict=True)]
                costs[Choice(base, first)] = one * len(others) + sum(others)
    return min(costs, key=costs.__getitem__)


def _seconds(ways: Mapping[str, Callable[[Tensor], object]], tokens: Tensor) -> dict[str, float]:
    """Return the seconds that each way takes for `tokens`, the best of `ROUNDS` in which they take turns."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for name, way in ways.items():
            began = time.perf_counter()
            way(tokens)
            best[name] = min(best[name], time.perf_counter() - began)
    return best


@cache
def amd() -> bool:
    """Return whether the processor is by AMD."""
    info = Path("/proc/cpuinfo")
    return info.exists() and "AuthenticAMD" in info.read_text()
