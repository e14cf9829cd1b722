"""Forwards that leave parts of the model out: which sublayers there are, and plans of what happens to them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from harness.errors import Unsupported

ATTENTION = ("self_attn", "attn", "self_attention", "attention")
MLP = (("mlp",), ("feed_forward",), ("fc1", "fc2"))


class Layer(NamedTuple):
    """One decoder layer: all of it, its attention, and the modules of its MLP in the order in which they run."""

    whole: nn.Module
    attention: nn.Module
    mlp: tuple[nn.Module, ...]


class Plan(Protocol):
    """What is different about a forward; reads whose plans are equal may share one."""

    def around(self, layers: Sequence[Layer]) -> AbstractContextManager[None]:
        """Make it so for one forward of the model that `layers` belong to."""
        ...


@dataclass(frozen=True)
class Skip:
    """The sublayers, by the number of their layer, that a forward leaves out; their input passes by unchanged.

    A layer whose attention is left out gets no keys and values for the tokens that are read, so that a forward of the
    whole model must read them again before they are committed.
    """

    attention: frozenset[int] = frozenset()
    mlp: frozenset[int] = frozenset()

    @contextmanager
    def around(self, layers: Sequence[Layer]) -> Iterator[None]:
        """Let these sublayers add nothing to the residual stream."""
        quiet: dict[nn.Module, Callable[..., Any]] = {layers[i].attention: _no_attention for i in self.attention}
        quiet |= dict.fromkeys((module for i in self.mlp for module in layers[i].mlp), torch.zeros_like)
        with replaced(quiet):
            yield


def find(model: Any) -> list[Layer]:
    """The decoder layers of a transformers model; raises `Unsupported` where their parts have unknown names."""
    count = int(model.config.get_text_config().num_hidden_layers)
    stack = next((each for each in model.get_decoder().modules()
                  if isinstance(each, nn.ModuleList) and len(each) == count), None)
    found = [_layer(each) for each in stack] if stack is not None else []
    layers = [layer for layer in found if layer]
    if not layers or len(layers) < count:
        raise Unsupported(f"cannot tell attention from MLP in the layers of {type(model).__name__}")
    return layers


@contextmanager
def replaced(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let modules run these functions in place of their own `forward`."""
    old = {module: module.__dict__.get("forward") for module in forwards}
    for module, forward in forwards.items():
        module.__dict__["forward"] = forward
    try:
        yield
    finally:
        for module, own in old.items():
            if own is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = own


def _layer(whole: nn.Module) -> Layer | None:
    parts = dict(whole.named_children())
    attention = next((parts[name] for name in ATTENTION if name in parts), None)
    mlp = next((tuple(parts[name] for name in names) for names in MLP if set(names) <= set(parts)), None)
    return Layer(whole, attention, mlp) if attention and mlp else None


def _no_attention(hidden_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, None]:
    return torch.zeros_like(hidden_states), None
