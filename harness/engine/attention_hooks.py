"""Hooks that mask or watch attention heads, by giving the attention modules another attention function."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from harness.engine.hooks import Captured, ModelParts, replaced
from harness.errors import Unsupported

Head = tuple[int, int]
"""A layer and one of its query heads, both from 0."""
Attend = Callable[..., tuple[Tensor, Tensor | None]]
"""`(module, query (B, H, Q, D), key, value, mask, …) → (output (B, Q, H, D), weights (B, H, Q, S) or None)`."""


@dataclass(frozen=True)
class MaskedHeads:
    """Masks attention heads so that they carry no information.

    "uniform" sets a head's query to zero, so that it attends equally to all tokens that it may attend to (the authors
    of DeCoRe, 2410.18860); "zero" sets its output to zero. Raises `Unsupported` for a head that the model lacks.
    """

    heads: frozenset[Head]
    mode: Literal["uniform", "zero"] = "uniform"

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[None]:
        """Mask them in one forward."""
        layers, size = head_counts(parts)
        if any(not (0 <= layer < layers and 0 <= head < size) for layer, head in self.heads):
            raise Unsupported(f"has {layers} layers of {size} heads, and not all of the heads to mask")
        by_layer: dict[int, list[int]] = {}
        for layer, head in sorted(self.heads):
            by_layer.setdefault(layer, []).append(head)
        masked = _without_query if self.mode == "uniform" else _without_output
        with _attending(parts, {layer: partial(masked, heads) for layer, heads in by_layer.items()}):
            yield


@dataclass(frozen=True)
class WatchAttention:
    """Records the attention weights of these layers: `attention:i` (B, W, H, S) of layer i over S cache slots.

    A slot's number is the position of its token as long as a sequence is computed without trees. Sums over S are one.
    """

    layers: tuple[int, ...]

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[Captured]:
        """Record them in one forward."""
        captured = dict[str, Tensor]()
        with _attending(parts, {layer: partial(_recorded, captured, f"attention:{layer}") for layer in self.layers}):
            yield captured


def head_counts(parts: ModelParts) -> tuple[int, int]:
    """The number of a model's layers and of the query heads of each."""
    return len(parts.layers), int(parts.model.config.get_text_config().num_attention_heads)


def _attending(parts: ModelParts, functions: Mapping[int, Callable[..., tuple[Tensor, Tensor | None]]]
               ) -> AbstractContextManager[None]:
    """Let layer i attend by `functions[i](attend, module, …)`, where `attend` is the function that it uses now."""
    forwards = dict[nn.Module, Callable[..., Any]]()
    for layer, function in functions.items():
        attention: Any = parts.layers[layer].attention
        attend = partial(function, _current(attention))
        forwards[attention] = partial(_with_function, attention.forward, attention, attend)
    return replaced(forwards)


def _with_function(forward: Callable[..., Any], attention: Any, attend: Attend, *args: Any, **kwargs: Any) -> Any:
    """Run an attention module's forward with `attend` as its attention function.

    transformers finds that function by the name in the module's configuration, so it gets a name for this one call.
    """
    config, functions = attention.config, _functions(attention)
    before, name = config._attn_implementation, f"decodebench_{id(attention)}"
    functions[name], config._attn_implementation = attend, name
    try:
        return forward(*args, **kwargs)
    finally:
        config._attn_implementation = before
        del functions[name]


def _current(attention: Any) -> Attend:
    """The attention function that a module uses now."""
    name = attention.config._attn_implementation
    attend: Attend = _eager(attention) if name == "eager" else _functions(attention)[name]
    return attend


def _functions(attention: Any) -> Any:
    """The table in which the module looks its attention function up; raises `Unsupported` when it has none."""
    return _global(attention, "ALL_ATTENTION_FUNCTIONS")


def _eager(attention: Any) -> Attend:
    """The module's plain attention function; raises `Unsupported` when it has none."""
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
