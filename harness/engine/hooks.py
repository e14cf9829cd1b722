"""Forwards that leave parts of the model out or look into it: which parts there are, and plans of what is done."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from harness.errors import Unsupported

ATTENTION = ("self_attn", "attn", "self_attention", "attention")
MLP = (("mlp",), ("feed_forward",), ("fc1", "fc2"))
NORM = ("norm", "ln_f", "final_layer_norm", "final_layernorm")
Seen = Mapping[str, Tensor]
"""What a plan took down in a forward of B texts and W places: name → (B, W, …)."""


class Layer(NamedTuple):
    """One decoder layer: all of it, its attention, and the modules of its MLP in the order in which they run."""

    whole: nn.Module
    attention: nn.Module
    mlp: tuple[nn.Module, ...]


class Parts:
    """The parts of a transformers model by what they do; raises `Unsupported` for one whose names are unknown."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @cached_property
    def layers(self) -> list[Layer]:
        """The decoder layers from the bottom up."""
        return find(self.model)

    @cached_property
    def norm(self) -> nn.Module:
        """What the last layer's output goes through before the output layer."""
        parts = dict(self.model.get_decoder().named_children())
        found: nn.Module | None = next((parts[name] for name in NORM if name in parts), None)
        if found is None:
            raise Unsupported(f"cannot find the final norm of {type(self.model).__name__}")
        return found

    @property
    def embedding(self) -> nn.Embedding:
        """From token ids to vectors."""
        found: nn.Embedding = self.model.get_input_embeddings()
        return found

    @property
    def head(self) -> nn.Module:
        """From hidden states (…, D) after the norm to logits (…, V)."""
        found: nn.Module = self.model.get_output_embeddings()
        return found


class ForwardHook(Protocol):
    """What is different about a forward; reads whose plans are equal may share one."""

    def around(self, parts: Parts) -> AbstractContextManager[Seen | None]:
        """Make it so for one forward of the model that `parts` are of; what it takes down is there at the end."""
        ...


@dataclass(frozen=True)
class Watch:
    """Takes down what passes inside: `hidden:i` and `mlp:i`, negative numbers counted from the end.

    `hidden:0` is what enters the first layer, `hidden:i` what leaves the i-th, as transformers numbers them but before
    the final norm, and `hidden:-1` what leaves the last. `mlp:i` is the input of the MLP of layer i (from 0), after
    its norm.
    """

    names: tuple[str, ...]

    @contextmanager
    def around(self, parts: Parts) -> Iterator[Seen]:
        """Listen to one forward."""
        seen, forwards = dict[str, Tensor](), dict[nn.Module, Callable[..., Any]]()
        for name in self.names:
            kind, _, number = name.partition(":")
            place, count = int(number), len(parts.layers)
            if kind == "mlp":
                module, output = parts.layers[place].mlp[0], False
            else:
                place %= count + 1
                module, output = parts.layers[min(place, count - 1)].whole, place == count
            own = forwards.get(module, module.forward)
            forwards[module] = partial(_listen, own, seen, name, output)
        with replaced(forwards):
            yield seen


@dataclass(frozen=True)
class Skip:
    """The sublayers, by the number of their layer, that a forward leaves out; their input passes by unchanged.

    A layer whose attention is left out gets no keys and values for the tokens that are read, so that a forward of the
    whole model must read them again before they are committed.
    """

    attention: frozenset[int] = frozenset()
    mlp: frozenset[int] = frozenset()

    @contextmanager
    def around(self, parts: Parts) -> Iterator[None]:
        """Let these sublayers add nothing to the residual stream."""
        layers = parts.layers
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


def _listen(own: Callable[..., Any], seen: dict[str, Tensor], name: str, output: bool, *args: Any, **kwargs: Any
            ) -> Any:
    out = own(*args, **kwargs)
    passed = out if output else args[0] if args else kwargs["hidden_states"]
    seen[name] = passed[0] if isinstance(passed, tuple) else passed
    return out


def _no_attention(hidden_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, None]:
    return torch.zeros_like(hidden_states), None
