"""Forwards in which attention heads are masked or watched, through transformers' registry of attention functions."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from harness.engine.hooks import Parts, Seen
from harness.errors import Unsupported

NAME = "decodebench_heads"
Head = tuple[int, int]
"""A layer and a query head of it, from 0."""
Attend = Callable[..., tuple[Tensor, Tensor | None]]
"""`(module, query (B, H, Q, D), key, value, mask, …) → (output (B, Q, H, D), weights (B, H, Q, S) or None)`."""

_attends = dict[Any, Attend]()  # by attention module, while a plan of this file is at work


@dataclass(frozen=True)
class Masked:
    """A forward in which these heads tell their layers nothing in particular.

    "uniform" sets a head's query to zero, so that it looks at all it may look at alike (the authors of DeCoRe,
    2410.18860); "zero" sets what it puts out to zero. Raises `Unsupported` for a head that the model does not have.
    """

    heads: frozenset[Head]
    mode: Literal["uniform", "zero"] = "uniform"

    @contextmanager
    def around(self, parts: Parts) -> Iterator[None]:
        """Mask the heads of one forward."""
        layers, size = size_of(parts)
        if any(not (0 <= layer < layers and 0 <= head < size) for layer, head in self.heads):
            raise Unsupported(f"has {layers} layers of {size} heads, and not all of the heads to mask")
        wanted: dict[int, list[int]] = {}
        for layer, head in sorted(self.heads):
            wanted.setdefault(layer, []).append(head)
        masked = _quiet if self.mode == "uniform" else _silent
        with _attending(parts, {layer: partial(masked, heads) for layer, heads in wanted.items()}):
            yield


@dataclass(frozen=True)
class Attention:
    """Takes down how the heads of these layers look back: `attention:i` (B, W, H, S) of layer i, S cache slots.

    A slot's number is the position of its token as long as the text is read without trees. Sums over S are one.
    """

    layers: tuple[int, ...]

    @contextmanager
    def around(self, parts: Parts) -> Iterator[Seen]:
        """Listen to one forward."""
        seen = dict[str, Tensor]()
        with _attending(parts, {layer: partial(_watched, seen, f"attention:{layer}") for layer in self.layers}):
            yield seen


def size_of(parts: Parts) -> tuple[int, int]:
    """How many layers a model has, and how many query heads each of them."""
    return len(parts.layers), int(parts.model.config.get_text_config().num_attention_heads)


@contextmanager
def _attending(parts: Parts, attends: "dict[int, Callable[..., tuple[Tensor, Tensor | None]]]") -> Iterator[None]:
    """Let the attention of layer i be `attends[i](attend, module, …)`, `attend` being what it was before."""
    modules: list[Any] = [layer.attention for layer in parts.layers]
    configs = {id(module.config): module.config for module in modules}.values()
    before = [(config, config._attn_implementation) for config in configs]
    for layer, attention in enumerate(modules):
        usual = _usual(attention)
        _attends[attention] = partial(attends[layer], usual) if layer in attends else usual
    ALL_ATTENTION_FUNCTIONS.register(NAME, _dispatch)
    try:
        for config, _ in before:
            config._attn_implementation = NAME
        yield
    finally:
        for config, name in before:
            config._attn_implementation = name
        _attends.clear()


def _dispatch(module: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    return _attends[module](module, *args, **kwargs)


def _usual(attention: Any) -> Attend:
    """The attention function that a module uses; raises `Unsupported` where it cannot be told."""
    name = attention.config._attn_implementation
    return _eager(attention) if name == "eager" else ALL_ATTENTION_FUNCTIONS[name]


def _eager(attention: Any) -> Attend:
    found: Attend | None = getattr(sys.modules[type(attention).__module__], "eager_attention_forward", None)
    if found is None:
        raise Unsupported(f"cannot look into the attention of {type(attention).__name__}")
    return found


def _quiet(heads: Sequence[int], attend: Attend, module: Any, query: Tensor, *args: Any, **kwargs: Any
           ) -> tuple[Tensor, Tensor | None]:
    query = query.clone()
    query[:, heads] = 0
    return attend(module, query, *args, **kwargs)


def _silent(heads: Sequence[int], attend: Attend, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    out, weights = attend(*args, **kwargs)
    out = out.clone()
    out[:, :, heads] = 0
    return out, weights


def _watched(seen: dict[str, Tensor], name: str, attend: Attend, module: Any, *args: Any, **kwargs: Any
             ) -> tuple[Tensor, Tensor | None]:
    """Only the plain function hands its weights out."""
    out, weights = _eager(module)(module, *args, **kwargs)
    assert isinstance(weights, Tensor)
    seen[name] = weights.transpose(1, 2)
    return out, weights
