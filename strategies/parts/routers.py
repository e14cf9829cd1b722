"""Routers, which tell from a prompt what layers its answer needs, and the file that holds them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from harness.engine.engine import Engine
from harness.engine.hooks import ModelParts, replaced, states_in
from harness.errors import Unsupported, UserError
from harness.models.loading import fingerprint
from harness.store.files import replace_file

COMMAND = "python -m strategies.tools.first_train --out FILE"
_fingerprints = WeakKeyDictionary[Engine, str]()


class Routers(NamedTuple):
    """The routers of L layers with states of D numbers: `weight` (L, D) and `bias` (L,).

    `order` has all layers, the one whose removal harms answers least first, each found after those before it were
    removed. `fingerprint` is that of the model; routers without one may be used with any model of this size.
    """

    weight: Tensor
    bias: Tensor
    order: tuple[int, ...]
    fingerprint: str

    def save(self, path: Path) -> None:
        """Write the routers to a file."""
        tensors = {"weight": self.weight.detach().float().contiguous().cpu(),
                   "bias": self.bias.detach().float().contiguous().cpu(), "order": torch.tensor(self.order)}
        replace_file(path, save(tensors, {"fingerprint": self.fingerprint}))

    def of(self, engine: Engine) -> "Routers":
        """Return the routers on the engine's device; raises `Unsupported` if they are those of another model."""
        if self.fingerprint and engine not in _fingerprints:
            _fingerprints[engine] = fingerprint(engine.model, rounded=True)
        size = len(engine.parts.layers), engine.parts.embedding.embedding_dim
        if self.weight.shape != size or self.fingerprint not in ("", _fingerprints.get(engine)):
            raise Unsupported(f"the routers were trained for another model: train those of this one with {COMMAND}")
        return self._replace(weight=self.weight.to(engine.device), bias=self.bias.to(engine.device))


@cache
def load(path: Path) -> Routers:
    """Load a file of routers; raises `UserError` if it is none."""
    try:
        with safe_open(path, "pt") as file:
            found = {name: file.get_tensor(name) for name in ("weight", "bias", "order")}
            return Routers(found["weight"], found["bias"], tuple(found["order"].tolist()),
                           file.metadata()["fingerprint"])
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise UserError(f"first: {path} is no file of routers; {COMMAND} writes one.") from error


def keep_chances(states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return what a router with `weight` (D,) and `bias` says after each of the states (…, D), between 0 and 1."""
    scaled = states.float()
    scaled = scaled * scaled.square().mean(-1, keepdim=True).add(1e-6).rsqrt()
    return torch.sigmoid(scaled @ weight + bias)


@dataclass(frozen=True, eq=False)
class Route:
    """Adds up what the routers say about the tokens of one sequence."""

    routers: Routers
    said: dict[int, list[Tensor]] = field(default_factory=dict)

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[None]:
        """Ask the routers in one forward, each for the input of its layer."""
        with replaced({layer.whole: partial(self._layer, number, layer.whole.forward)
                       for number, layer in enumerate(parts.layers)}):
            yield

    def means(self) -> Tensor:
        """Return the mean over all tokens for each layer (L,)."""
        return torch.stack([torch.cat(self.said[number]).mean() for number in sorted(self.said)])

    def _layer(self, number: int, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        found = keep_chances(states_in(args, kwargs), self.routers.weight[number], self.routers.bias[number])
        self.said.setdefault(number, []).append(found.flatten())
        return own(*args, **kwargs)
