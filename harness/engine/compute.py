"""Counts of what the forward passes of a sequence compute: sublayers, keys, rows of logits, and weights that they read.

A sublayer is the attention or the MLP of one layer for one token. They depend on the method alone, not on the machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from harness.engine.forward import ForwardRequest, ForwardRows
from harness.engine.windows import Windows

SPARED, ADDED = "spared:", "added:"  # a hook records under these names what it leaves out and adds, for each token
KV = "kv"                            # keys and values by their bytes
Count = float | Tensor
"""A sum, which stays on the device until it is read."""


class Depth(NamedTuple):
    """The number of layers of a model, how many of them have a sliding window, its size, and how many have no keys."""

    layers: int
    sliding: int
    window: int
    keyless: int = 0

    @classmethod
    def of(cls, layers: int, windows: Windows) -> "Depth":
        """Return the layers of a model with these windows."""
        return cls(layers, windows.sliding(layers), windows.size)

    def keys(self, visible: Sequence[int]) -> list[int]:
        """Return the keys that all layers read for each of the tokens, which may attend to so many slots."""
        return [(self.layers - self.keyless) * slots - self.sliding * max(0, slots - self.window) for slots in visible]

    def of_first(self, count: Tensor, visible: Tensor) -> Tensor:
        """Return how many of these keys are of the first `count` slots; windows are over the last of the visible ones.
        """
        beyond = torch.minimum(count, (visible - self.window).clamp_min(0))
        return (self.layers - self.keyless) * count - self.sliding * beyond


@dataclass
class Compute:
    """Sums over the tokens that a sequence computes, without drafts.

    `attention` and `mlp` are sublayers; `fills` are layers that compute only the keys and values of a token; `logits`
    are rows of logits, probes included. `keys` are the keys that tokens attend to in all layers, where a key of all
    heads is one, and `all_keys` those of attention to the whole sequence. A vector with which a token is only compared,
    such as a bound of a page of keys, is half a key. `kv` are the same keys by the bytes of what is read, in units of a
    key and its value in full precision. `…_read` count how often the weights of a part are loaded: once a forward, for
    the token that needs most of it.
    """

    attention: Count = 0
    mlp: Count = 0
    fills: Count = 0
    logits: Count = 0
    keys: Count = 0
    all_keys: Count = 0
    kv: Count = 0
    attention_read: Count = 0
    mlp_read: Count = 0
    fills_read: Count = 0
    logits_read: Count = 0

    def add(self, depth: Depth, request: ForwardRequest, output: ForwardRows, shift: int = 0) -> None:
        """Add a forward, less what its hook spared and with what it added; there is no wait for the device.

        The tokens' numbers in the text are `shift` higher than their positions.
        """
        size, rows = len(request.tokens), request.logits_to_keep
        for name, per_token, whole, read in (("attention", depth.layers, depth.layers * size, depth.layers),
                                             ("mlp", depth.layers, depth.layers * size, depth.layers),
                                             ("fills", 0, 0, 0), ("logits", 0, rows, min(rows, 1))):
            total, most = float(whole), float(read)
            if (spared := output.recorded(SPARED + name)) is not None:
                self._grow(name, total - spared.sum(), per_token - spared.amin())
            elif (added := output.recorded(ADDED + name)) is not None:
                self._grow(name, total + added.sum(), most + added.amax())
            else:
                self._grow(name, total, most)
        self._add_keys(depth, request, output, shift)

    def fill(self, depth: Depth, tokens: int) -> None:
        """Add tokens of which only the keys and values of all layers are made, from one reading of the weights."""
        self._grow("fills", depth.layers * tokens, depth.layers)

    def numbers(self) -> dict[str, float]:
        """Return all sums; waits for the device if some are there."""
        sums = {field.name: getattr(self, field.name) for field in fields(self)}
        there = {name: value for name, value in sums.items() if isinstance(value, Tensor)}
        known = torch.stack([value.double() for value in there.values()]).tolist() if there else []
        return {name: float(value) for name, value in sums.items() if name not in there} | dict(
            zip(there, known, strict=True))

    def _add_keys(self, depth: Depth, request: ForwardRequest, output: ForwardRows, shift: int) -> None:
        keys, spared = _keys(depth, request), output.recorded(SPARED + "attention")
        shorter: Count = 0 if (found := output.recorded(SPARED + KV)) is None else found.view(-1)
        if spared is not None:  # the keys of these layers; where only some layers slide, of layers on average
            run = 1 - spared.view(-1) / depth.layers
            keys, shorter = torch.as_tensor(keys, device=spared.device) * run, shorter * run
        read = keys.sum() if isinstance(keys, Tensor) else float(sum(keys))
        if (fewer := output.recorded(SPARED + "keys")) is not None:
            read = read - fewer.sum()
        self.keys, self.kv = self.keys + read, self.kv + read - _sum(shorter)
        if (more := output.recorded(ADDED + "keys")) is not None:
            self.keys, self.kv = self.keys + more.sum(), self.kv + output.captured(ADDED + KV).sum()
        self.all_keys = self.all_keys + float(sum(depth.keys([position + shift + 1 for position in request.positions])))

    def _grow(self, name: str, total: Count, most: Count) -> None:
        setattr(self, name, getattr(self, name) + total)
        setattr(self, f"{name}_read", getattr(self, f"{name}_read") + most)


def difference(later: Mapping[str, float], earlier: Mapping[str, float]) -> dict[str, float]:
    """Return what was counted between two calls of `numbers`."""
    return {name: later[name] - earlier[name] for name in later}


def _sum(count: Count) -> Count:
    return count.sum() if isinstance(count, Tensor) else count


def _keys(depth: Depth, request: ForwardRequest) -> list[int] | Tensor:
    """Return the keys that each token of a forward attends to in all layers."""
    end, mask = request.start + len(request.tokens), request.mask
    if mask is None:
        return depth.keys(range(request.start + 1, end + 1))
    slots = end - mask.shape[1] + (mask == 0).sum(-1)
    return (depth.layers - depth.keyless) * slots - depth.sliding * (slots - depth.window).clamp_min(0)
