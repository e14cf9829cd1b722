"""The parts of a model by their function, and hooks that change, skip or record them in one forward pass."""

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from harness.errors import Unsupported

if TYPE_CHECKING:
    from harness.engine.compute import Depth
    from harness.engine.forward import Row
    from harness.engine.rotary import Rotary

ATTENTION = ("self_attn", "attn", "self_attention", "attention")
MLP = (("mlp",), ("feed_forward",), ("fc1", "fc2"))
DOWN = ("down_proj", "c_proj", "fc2", "dense_4h_to_h", "w2", "output_linear")  # the last product of an MLP
NORM = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f", "ln_out")
HIDDEN = "hidden"  # the name of the last states, after the final norm, which are recorded without a hook
Captured = Mapping[str, Tensor]
"""The recordings of a hook in a forward over B sequences of W tokens: name → (B, W, …)."""


class Layer(NamedTuple):
    """One decoder layer: the whole layer, its attention, and the modules of its MLP in order of execution."""

    whole: nn.Module
    attention: nn.Module
    mlp: tuple[nn.Module, ...]


class View(NamedTuple):
    """What a forward computes: the rows of B sequences, and the slots and positions (B, Q) of their new tokens.

    `longest` is one more than the largest position. `rotary` returns the rotation of queries and keys, or raises
    `Unsupported`. `depth` are the layers of the model, by what they attend to.
    """

    rows: "Sequence[Row]"
    slots: Tensor
    positions: Tensor
    longest: int
    rotary: "Callable[[], Rotary]"
    depth: "Depth"


class ModelParts:
    """The parts of a transformers model by function; raises `Unsupported` when their names are unknown.

    `prepared` is what hooks have computed once from the weights, by hook. `view` is what the present forward computes;
    only a forward with a hook has one.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.prepared = model, dict[ForwardHook, Any]()
        self.view: View | None = None

    @cached_property
    def layers(self) -> list[Layer]:
        """The decoder layers from the bottom up."""
        return decoder_layers(self.model)

    @cached_property
    def norm(self) -> nn.Module:
        """The final norm, between the last layer and the output layer."""
        children = dict(self.model.get_decoder().named_children())
        norm: nn.Module | None = next((children[name] for name in NORM if name in children), None)
        if norm is None:
            raise Unsupported(f"cannot find the final norm of {type(self.model).__name__}")
        return norm

    @property
    def embedding(self) -> nn.Embedding:
        """The embedding, from token ids to vectors."""
        embedding: nn.Embedding = self.model.get_input_embeddings()
        return embedding

    @property
    def head(self) -> nn.Module:
        """The output layer, from hidden states (…, D) after the norm to logits (…, V)."""
        head: nn.Module = self.model.get_output_embeddings()
        return head


class ForwardHook(Protocol):
    """Changes or records one forward pass; requests with equal hooks may share a forward."""

    def applied_to(self, parts: ModelParts) -> AbstractContextManager[Captured | None]:
        """Apply the hook to the forward inside the context, and yield its recordings, complete at the end."""
        ...


@contextmanager
def replaced(forwards: Mapping[nn.Module, Callable[..., Any]], name: str = "forward") -> Iterator[None]:
    """Replace the `forward` of modules, or another method, by these functions until the end of the context.

    Hooks change a model only through this function; contexts may be nested.
    """
    before = {module: module.__dict__.get(name) for module in forwards}
    for module, forward in forwards.items():
        module.__dict__[name] = forward
    try:
        yield
    finally:
        for module, forward_before in before.items():
            if forward_before is None:
                del module.__dict__[name]
            else:
                module.__dict__[name] = forward_before


@dataclass(frozen=True)
class Both:
    """Two hooks in one forward, whose recordings have different names."""

    outer: ForwardHook
    inner: ForwardHook

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[Captured]:
        """Apply both hooks, and yield the recordings of both."""
        with self.outer.applied_to(parts) as first, self.inner.applied_to(parts) as second:
            recorded = [each for each in (first, second) if each is not None]  # which are empty as yet
            yield ChainMap(*recorded)  # type: ignore[arg-type]  # neither is written to


@dataclass(frozen=True)
class Watch:
    """Records hidden states: `hidden:i` and `mlp:i`, where negative numbers count from the end.

    `hidden:0` is the input of the first layer, `hidden:i` the output of the i-th, numbered as in transformers but
    before the final norm, and `hidden:-1` the output of the last. `mlp:i` is the input of the MLP of layer i (from 0),
    after its norm.
    """

    names: tuple[str, ...]

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[Captured]:
        """Record the hidden states in one forward pass."""
        captured, forwards = dict[str, Tensor](), dict[nn.Module, Callable[..., Any]]()
        for name in self.names:
            part, _, number = name.partition(":")
            index, count = int(number), len(parts.layers)
            if part == "mlp":
                module, output = parts.layers[index].mlp[0], False
            else:
                index %= count + 1
                module, output = parts.layers[min(index, count - 1)].whole, index == count
            forward = forwards.get(module, module.forward)
            forwards[module] = partial(_recorded, forward, captured, name, output)
        with replaced(forwards):
            yield captured


@dataclass(frozen=True)
class Skip:
    """Skips sublayers, given by their layer numbers: they add nothing to the residual stream.

    A layer whose attention is skipped writes no keys and values for the tokens of the forward, so a forward of the
    whole model must compute these tokens again before they are committed. `spared:attention` and `spared:mlp` are
    recorded.
    """

    attention: frozenset[int] = frozenset()
    mlp: frozenset[int] = frozenset()

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[Captured]:
        """Skip the sublayers in one forward pass."""
        layers, captured = parts.layers, dict[str, Tensor]()
        skipped: dict[nn.Module, Callable[..., Any]] = {layers[i].attention: _no_attention for i in self.attention}
        skipped |= dict.fromkeys((module for i in self.mlp for module in layers[i].mlp), torch.zeros_like)
        spared = {"spared:attention": len(self.attention), "spared:mlp": len(self.mlp)}
        with replaced(skipped), recording(parts, captured, spared):
            yield captured


@dataclass(frozen=True, eq=False)
class Enter:
    """Begins the forward at a layer, numbered from 0, whose input are the given states (B, W, D).

    The layers below add nothing, and write no keys and values for the tokens of the forward.
    """

    layer: int
    states: Tensor

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[Captured]:
        """Give the layer its input in one forward pass."""
        below, whole = frozenset(range(self.layer)), parts.layers[self.layer].whole
        with (Skip(below, below).applied_to(parts) as captured,
              replaced({whole: partial(_entered, whole.forward, self.states)})):
            yield captured


@contextmanager
def changed(parts: ModelParts, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Replace states (…, D) in one forward pass by what these functions return for them.

    The names are `hidden:i`, the output of the i-th layer as in `Watch`, and `neurons:i`, the input of the last product
    in the MLP of layer i (from 0). Raises `Unsupported` for a layer that the model does not have.
    """
    forwards, layers = dict[nn.Module, Callable[..., Any]](), parts.layers
    for name, change in changes.items():
        part, _, number = name.partition(":")
        index = int(number) - (part == "hidden")
        if not 0 <= index < len(layers):
            raise Unsupported(f"there is no {name} in a model of {len(layers)} layers")
        module = layers[index].whole if part == "hidden" else _last_product(layers[index])
        forwards[module] = partial(_output_changed if part == "hidden" else _input_changed, module.forward, change)
    with replaced(forwards):
        yield


def recording(parts: ModelParts, captured: dict[str, Tensor], numbers: Mapping[str, float]
              ) -> AbstractContextManager[None]:
    """Record the same number for each token of a forward, under each name."""
    first = parts.layers[0].whole
    return replaced({first: partial(_noted, first.forward, captured, numbers)})


def states_in(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the hidden states (B, W, D) among the arguments of a layer."""
    states: Tensor = args[0] if args else kwargs["hidden_states"]
    return states


def states_of(result: Any) -> Tensor:
    """Return the hidden states (B, W, D) in what a layer returns."""
    states: Tensor = result[0] if isinstance(result, tuple) else result
    return states


def with_states(result: Any, states: Tensor) -> Any:
    """Return what a layer returns with other hidden states."""
    return (states, *result[1:]) if isinstance(result, tuple) else states


def layer_count(model: Any) -> int:
    """Return the number of decoder layers; the configuration of an encoder-decoder may name those of its encoder."""
    if not getattr(model.config, "is_encoder_decoder", False):
        return int(model.config.get_text_config().num_hidden_layers)
    return max((len(child) for child in model.get_decoder().children() if isinstance(child, nn.ModuleList)), default=0)


def decoder_layers(model: Any) -> list[Layer]:
    """Return the decoder layers of a transformers model; raises `Unsupported` when their part names are unknown."""
    count = layer_count(model)
    stack = next((module for module in model.get_decoder().modules()
                  if isinstance(module, nn.ModuleList) and len(module) == count), None)
    layers = [layer for layer in map(_layer, stack) if layer] if stack is not None else []
    if not layers or len(layers) < count:
        raise Unsupported(f"cannot tell attention from MLP in the layers of {type(model).__name__}")
    return layers


def _layer(whole: nn.Module) -> Layer | None:
    children = dict(whole.named_children())
    attention = next((children[name] for name in ATTENTION if name in children), None)
    mlp = next((tuple(children[name] for name in names) for names in MLP if set(names) <= set(children)), None)
    return Layer(whole, attention, mlp) if attention and mlp else None


def _recorded(forward: Callable[..., Any], captured: dict[str, Tensor], name: str, output: bool, *args: Any,
              **kwargs: Any) -> Any:
    """Run `forward` and record its output or, if `output` is false, its input."""
    result = forward(*args, **kwargs)
    captured[name] = states_of(result) if output else states_in(args, kwargs)
    return result


def _last_product(layer: Layer) -> nn.Module:
    *_, last = layer.mlp
    children = dict(last.named_children())
    found = next((children[name] for name in DOWN if name in children), last)
    if not isinstance(getattr(found, "weight", None), Tensor):
        raise Unsupported(f"cannot find the neurons of {type(last).__name__}")
    return found


def _output_changed(forward: Callable[..., Any], change: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Any:
    result = forward(*args, **kwargs)
    return with_states(result, change(states_of(result)))


def _input_changed(forward: Callable[..., Any], change: Callable[[Tensor], Tensor], states: Tensor) -> Any:
    return forward(change(states))


def _noted(forward: Callable[..., Any], captured: dict[str, Tensor], numbers: Mapping[str, float],
           *args: Any, **kwargs: Any) -> Any:
    states = states_in(args, kwargs)
    captured.update({name: states.new_full(states.shape[:2], number, dtype=torch.float64)
                     for name, number in numbers.items()})
    return forward(*args, **kwargs)


def _entered(forward: Callable[..., Any], states: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Run `forward` with `states` in place of its hidden states."""
    return forward(states, *args[1:], **kwargs) if args else forward(**kwargs | {"hidden_states": states})


def _no_attention(hidden_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, None]:
    return torch.zeros_like(hidden_states), None
