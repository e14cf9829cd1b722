"""Hooks that mask attention heads or record attention weights by replacing a module's attention function."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harness.engine.hooks import Captured, ModelParts, replaced
from harness.errors import Unsupported

CROSS = ("encoder_attn", "EncDecAttention")  # names of the modules that attend to the source
Head = tuple[int, int]
"""(layer, query head), both counted from 0."""
Attend = Callable[..., tuple[Tensor, Tensor | None]]
"""`(module, query (B, H, Q, D), key, value, mask, …) → (output (B, Q, H, D), weights (B, H, Q, S) or None)`."""


@dataclass(frozen=True)
class MaskedHeads:
    """Masks attention heads so that they carry no information.

    "uniform" sets a head's query to zero, so that it attends equally to all tokens that it may attend to (the authors
    of DeCoRe, 2410.18860); "zero" sets its output to zero. Raises `Unsupported` for a head that does not exist.
    """

    heads: frozenset[Head]
    mode: Literal["uniform", "zero"] = "uniform"

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[None]:
        """Mask the heads in one forward pass."""
        layers, size = head_counts(parts)
        if any(not (0 <= layer < layers and 0 <= head < size) for layer, head in self.heads):
            raise Unsupported(f"needs heads to mask among the {layers} layers of {size} heads that the model has")
        by_layer: dict[int, list[int]] = {}
        for layer, head in sorted(self.heads):
            by_layer.setdefault(layer, []).append(head)
        masked = _without_query if self.mode == "uniform" else _without_output
        with attending(parts, {layer: partial(masked, heads) for layer, heads in by_layer.items()}):
            yield


@dataclass(frozen=True)
class WatchAttention:
    """Records the attention weights of some layers: `attention:i` (B, W, H, S) of layer i over S cache slots.

    Slot numbers are token positions while a sequence is computed without trees. Weights sum to one over S.
    """

    layers: tuple[int, ...]

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[Captured]:
        """Record the weights in one forward pass."""
        captured = dict[str, Tensor]()
        with attending(parts, {layer: partial(_recorded, captured, f"attention:{layer}") for layer in self.layers}):
            yield captured


@dataclass(frozen=True)
class WatchSource:
    """Records the attention of all decoder layers to the source: `source` (B, W, layers, H, S) over its S tokens.

    Raises `Unsupported` for a model whose attention functions are unknown.
    """

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[Captured]:
        """Record the weights in one forward pass."""
        captured, layers = dict[str, Tensor](), dict[str, Tensor]()
        with with_functions({module: partial(_recorded, layers, str(layer))
                             for layer, module in enumerate(source_attention(parts.model))}):
            yield captured
        captured["source"] = torch.stack(list(layers.values()), 2)


@dataclass(frozen=True)
class AttendToEnds:
    """Lets every layer attend to the `first` tokens of the sequence and to its `last` ones, the current one among them.

    The keys and values between them are not read; those that are keep the positions that they were written with. Only
    for forwards of one token per sequence, without trees; raises `ValueError` for others.
    """

    first: int
    last: int

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[None]:
        """Leave out the keys and values in one forward pass."""
        slots = cache(partial(_end_slots, self.first, self.last))  # layers of one kind get the same mask
        with attending(parts, dict.fromkeys(range(len(parts.layers)), partial(_between_left_out, slots))):
            yield


def head_counts(parts: ModelParts) -> tuple[int, int]:
    """Return the number of layers and the number of query heads per layer."""
    return len(parts.layers), int(parts.model.config.get_text_config().num_attention_heads)


def attending(parts: ModelParts, functions: Mapping[int, Callable[..., tuple[Tensor, Tensor | None]]]
               ) -> AbstractContextManager[None]:
    """Replace the attention function `attend` of layer i by `functions[i](attend, module, …)`.

    Contexts may be nested: the function of the outer one gets that of the inner one as `attend`.
    """
    return with_functions({parts.layers[layer].attention: function for layer, function in functions.items()})


def with_functions(functions: Mapping[nn.Module, Callable[..., tuple[Tensor, Tensor | None]]]
                   ) -> AbstractContextManager[None]:
    """Replace the attention functions of modules, as `attending` does."""
    return replaced({module: partial(_with_function, module.forward, module, function)
                     for module, function in functions.items()})


def source_attention(model: Any) -> list[nn.Module]:
    """Return the modules that attend to the source, one for each decoder layer."""
    return [module for name, module in model.get_decoder().named_modules() if name.rsplit(".", 1)[-1] in CROSS]


def _with_function(forward: Callable[..., Any], attention: Any, function: Callable[..., Any], *args: Any,
                   **kwargs: Any) -> Any:
    """Run an attention module's forward with `function`, which gets its current one first, as attention function.

    transformers looks the function up by the name in the module's configuration, so it gets a name for this call only.
    """
    config, functions = attention.config, _functions(attention)
    before, name = config._attn_implementation, f"decodebench_{id(function)}"
    functions[name], config._attn_implementation = partial(function, _current(attention)), name
    try:
        return forward(*args, **kwargs)
    finally:
        config._attn_implementation = before
        del functions[name]


def _current(attention: Any) -> Attend:
    """Return the attention function that a module currently uses."""
    name = attention.config._attn_implementation
    attend: Attend = _eager(attention) if name == "eager" else _functions(attention)[name]
    return attend


def _functions(attention: Any) -> Any:
    """Return the table of attention functions of a module; raises `Unsupported` when there is none."""
    return _global(attention, "ALL_ATTENTION_FUNCTIONS")


def _eager(attention: Any) -> Attend:
    """Return the eager attention function of a module; raises `Unsupported` when there is none."""
    attend: Attend = _global(attention, "eager_attention_forward")
    return attend


def _global(attention: Any, name: str) -> Any:
    value = getattr(sys.modules[type(attention).__module__], name, None)
    if value is None:
        raise Unsupported(f"cannot replace the attention function of {type(attention).__name__}")
    return value


def _without_query(heads: Sequence[int], attend: Attend, module: Any, query: Tensor, *args: Any, **kwargs: Any
                   ) -> tuple[Tensor, Tensor | None]:
    query = query.clone()
    query[:, heads] = 0
    return attend(module, query, *args, **kwargs)


def _without_output(heads: Sequence[int], attend: Attend, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    output, weights = attend(*args, **kwargs)
    output = output.clone()
    output[:, :, heads] = 0
    return output, weights


def _recorded(captured: dict[str, Tensor], name: str, attend: Attend, module: Any, *args: Any, **kwargs: Any
              ) -> tuple[Tensor, Tensor | None]:
    """Attend eagerly, because no other attention function returns its weights."""
    output, weights = _eager(module)(module, *args, **kwargs)
    assert isinstance(weights, Tensor)
    captured[name] = weights.transpose(1, 2)
    return output, weights


def _between_left_out(slots: Callable[[Tensor], tuple[Tensor, Tensor] | None], attend: Attend, module: Any,
                      query: Tensor, key: Tensor, value: Tensor, mask: Tensor, *args: Any, **kwargs: Any
                      ) -> tuple[Tensor, Tensor | None]:
    if query.shape[2] > 1:
        raise ValueError("leaving out keys between the ends of a sequence needs forwards of one token per sequence")
    if ends := slots(mask):
        rows = torch.arange(len(key), device=key.device)[:, None]
        key, value, mask = key[rows, :, ends[0]].transpose(1, 2), value[rows, :, ends[0]].transpose(1, 2), ends[1]
    return attend(module, query, key, value, mask, *args, **kwargs)


def _end_slots(first: int, last: int, mask: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the slots (B, first + last) at the ends of each sequence, and what an additive mask (B, 1, 1, S) is there.

    A slot that a short sequence has at both of its ends is masked once. None if no sequence has more slots.
    """
    if mask.shape[-1] <= first + last:
        return None
    lowest, order = torch.finfo(mask.dtype).min, torch.arange(mask.shape[-1], device=mask.device)
    ends = ((mask[:, 0, 0] > lowest / 2) * (order + 1)).amax(-1, keepdim=True)
    number = order[:first + last]
    slots = torch.where(number < first, number, ends - (first + last) + number)
    twice = (number >= first) & (slots < first)
    slots = slots.clamp_min(0)
    return slots, mask[:, 0, 0].gather(1, slots).masked_fill(twice, lowest)[:, None, None]
