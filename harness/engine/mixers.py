"""The modules of a model that carry a state from token to token, and how they are called with the states of sequences.

All that is known of them is the cache of transformers, or the list of states of RWKV, that they read and write.
"""

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, LinearAttentionLayer

from harness.engine.hooks import states_of

BOTH = "hybrid"  # a layer with attention and a mixer
RECURRENT = frozenset({"linear_attention", "conv", BOTH})  # kinds of layers, as transformers names them
LISTED = ("time_decay", "time_mix_key")        # parameters of the modules of RWKV-4
CACHES = ("cache", "cache_params", "past_key_values")  # names of the argument of their cache
MOST = 3  # states of one module
SIZE = 8  # tokens that are compared
CLOSE = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}  # relative errors that are only rounding
Tensors = tuple[Tensor | None, ...]


class Mixer(Protocol):
    """A module with a state."""

    module: nn.Module

    def run(self, forward: Callable[..., Any], x: Tensor, state: Tensors | None) -> tuple[Any, Tensors]:
        """Return what the module does for inputs (G, T, D) after a state, None at the start, and the state after them.

        A state that is given may be changed.
        """
        ...


class CacheMixer:
    """A mixer with a cache of transformers: Mamba, Mamba-2, gated delta rule, short convolution."""

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module
        self.name = cache_name(module)

    def run(self, forward: Callable[..., Any], x: Tensor, state: Tensors | None) -> tuple[Any, Tensors]:
        """Call the module with a cache of one layer that holds the state."""
        layer = LinearAttentionLayer(MOST)
        for number, (conv, recurrent) in enumerate(zip(state[::2], state[1::2], strict=True) if state else ()):
            if conv is not None:
                layer.conv_states[number], layer.conv_kernel_size[number] = conv, conv.shape[-1]
                layer.is_conv_states_initialized[number] = layer.has_previous_state[number] = True
            if recurrent is not None:
                layer.recurrent_states[number], layer.is_recurrent_states_initialized[number] = recurrent, True
        output = forward(x, **{self.name: Cache(layers=[layer] * (int(self.module.layer_idx) + 1))})
        return output, tuple(held[number] for number in range(MOST)
                             for held in (layer.conv_states, layer.recurrent_states))


class ListMixer:
    """A mixer of RWKV-4, whose state is a list of tensors (B, D, layers): time mixing or channel mixing."""

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module
        self.options: dict[str, Any] = {"use_cache": True} if hasattr(module, "time_decay") else {}

    def run(self, forward: Callable[..., Any], x: Tensor, state: Tensors | None) -> tuple[Any, Tensors]:
        """Call the module as if it were the only layer; one token of several sequences it would mix up."""
        given = list(state) if state is not None else self._start(x)
        if x.shape[1] == 1 and len(x) > 1:
            rows = [self.run(forward, x[row:row + 1], tuple(part[row:row + 1] for part in given if part is not None))
                    for row in range(len(x))]
            return ((torch.cat([output for (output, _), _ in rows]), None),
                    tuple(torch.cat(parts) for parts in zip(*(after for _, after in rows), strict=True)))
        before, self.module.layer_id = self.module.layer_id, 0
        try:
            output, after = forward(x, state=given, **self.options)
        finally:
            self.module.layer_id = before
        return (output, None), tuple(after)

    def _start(self, x: Tensor) -> list[Tensor]:
        """Return the state before the first token, as the model makes it."""
        shape = x.shape[0], x.shape[2], 1
        start = [x.new_zeros(shape, dtype=x.dtype if number < 2 else torch.float32) for number in range(5)]
        start[4] -= 1e30
        return start


def find_mixers(model: nn.Module) -> list[Mixer]:
    """Return the modules of a model that carry a state, from the first to the last."""
    found = list[Mixer]()
    for module in model.modules():
        names = {name for name, _ in module.named_parameters(recurse=False)}
        if names & set(LISTED):
            found.append(ListMixer(module))
        elif hasattr(module, "conv_kernel_size") and cache_name(module):
            found.append(CacheMixer(module))
    return found


def cache_name(module: nn.Module) -> str:
    """Return the name of the argument of a module that is a cache, empty if it has none."""
    names = signature(module.forward).parameters
    return next((name for name in CACHES if name in names), "")


@torch.inference_mode()
def reads_chunks(mixer: Mixer, width: int) -> bool:
    """Return whether a mixer of this width that reads several tokens at once goes on from its state.

    Those of Mamba and Jamba start from nothing.
    """
    weight = next(mixer.module.parameters())
    x = torch.randn(1, 2 * SIZE, width, generator=torch.Generator().manual_seed(0)).to(weight)
    forward = mixer.module.forward
    _, state = mixer.run(forward, x[:, :SIZE], None)
    whole, _ = mixer.run(forward, x[:, SIZE:], gathered([(state, 0)]))
    single = list[Tensor]()
    for place in range(SIZE, 2 * SIZE):
        result, state = mixer.run(forward, x[:, place:place + 1], gathered([(state, 0)]))
        single.append(states_of(result))
    difference = states_of(whole).float() - torch.cat(single, 1).float()
    return bool(difference.norm() <= CLOSE[weight.dtype] * torch.cat(single, 1).float().norm())


def gathered(states: Sequence[tuple[Tensors, int]]) -> Tensors:
    """Return copies of the states of some sequences, each a row of tensors, as one batch."""
    first, count = states[0][0], len(states)
    if all(held is first and index == place for place, (held, index) in enumerate(states)):
        return tuple(part if part is None else part[:count].clone() for part in first)
    rows = [[None if part is None else part[index] for part in held] for held, index in states]
    return tuple(None if parts[0] is None else torch.stack(parts) for parts in zip(*rows, strict=True))

