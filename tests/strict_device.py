"""A simulated device: CPU tensors that follow CUDA's rules on mixing devices, and count every host sync.

Inside `strict()` all that is made on `DEVICE` is an `OnDevice` tensor. An operation that mixes one with a plain CPU
tensor raises `MixedDevices`, apart from what CUDA allows: CPU tensors without dimensions, CPU tensors as indices, and
copies. A *sync* is a wait of the host for the device: a value or shape that depends on data (`item`, `tolist`, `bool`,
`nonzero`, a boolean mask as an index, …) or a copy to the host. An *upload* is a copy to the device, without a wait:
`torch.tensor(…, device=DEVICE)`, `.to(DEVICE)`, or a list or CPU tensor as an index.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

GENERATOR = torch.Generator
DEVICE = torch.device("cuda", 1)
CPU = torch.device("cpu")
SYNCS = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__contains__", "__format__", "__repr__",
         "nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "equal", "allclose", "bincount",
         "is_nonzero", "cpu"}
COPIES = {"to", "copy_", "cpu", "__setitem__"}  # may have tensors of both devices
FORBIDDEN = {"numpy", "__array__"}              # CUDA refuses them; `.cpu()` comes first
PLACE = Tensor.device.__get__  # type: ignore[attr-defined]
ON_CUDA = Tensor.is_cuda.__get__  # type: ignore[attr-defined]


class MixedDevices(RuntimeError):
    """Raised when one operation gets tensors of the device and of the CPU."""


class OnDevice(Tensor):
    """A tensor that simulates one of `DEVICE`."""

    __torch_function__ = torch._C._disabled_torch_function_impl


class Strict(TorchFunctionMode):
    """Enforces the rules; `syncs` and `uploads` count from the start, `where` counts syncs by operation."""

    def __init__(self) -> None:
        super().__init__()
        self.syncs = self.uploads = 0
        self.where: dict[str, int] = {}

    def __torch_function__(self, func: Callable[..., Any], types: object, args: Sequence[Any] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        """Run one function of torch under the rules."""
        name, kwargs = getattr(func, "__name__", str(func)), dict(kwargs or {})
        tensors, devices = list[Tensor](), list[Any]()
        _find((*args, *kwargs.values()), tensors, devices)
        ours = [each for each in tensors if isinstance(each, OnDevice)]
        if func == PLACE:
            return DEVICE if ours else CPU
        if func == ON_CUDA:
            return bool(ours)
        asked = [str(each) for each in devices if str(each).startswith(("cuda", "cpu"))]
        if not ours and not any(each.startswith("cuda") for each in asked):
            return func(*args, **kwargs)
        if name in FORBIDDEN:
            raise TypeError(f"{name} of a device tensor: copy it to the host first")
        there = asked[0].startswith("cuda") if asked else name != "cpu"
        self._count(name, args, tensors, ours, there)
        if asked:
            args, kwargs = tree_map(_here, (args, kwargs))
        result = func(*args, **kwargs)
        if name in {"__setitem__", "tolist"}:
            return result
        place = _place if there else _taken
        return tree_map(place, result) if isinstance(result, tuple | list) else place(result)

    def _count(self, name: str, args: Sequence[Any], tensors: list[Tensor], ours: list[Tensor], there: bool) -> None:
        mixed = len(ours) < len(tensors) and any(each.dim() for each in tensors if not isinstance(each, OnDevice))
        if not ours:
            self.uploads += name in {"tensor", "as_tensor", "to"}
            return
        if name in {"__getitem__", "__setitem__"}:
            self._index(name, args)
        elif name == "tensor":
            self._sync(f"tensor of {len(ours)} tensors", len(ours))
        elif name in SYNCS or not there or (name == "where" and len(args) == 1) or (
                name == "repeat_interleave" and len(tensors) > 1):
            self._sync(name)
        elif name == "copy_" and mixed:
            self._moved(args[0])
        elif mixed and name not in COPIES:
            raise MixedDevices(f"{name} of {[(type(each).__name__, tuple(each.shape)) for each in tensors]}")

    def _index(self, name: str, args: Sequence[Any]) -> None:
        """Count an index: CPU tensors and lists are uploads, a mask or a single number of the device is a sync."""
        held, index = args[0], args[1] if isinstance(args[1], tuple) else (args[1],)
        parts = [each for each in index if isinstance(each, Tensor | list)]
        value = args[2] if name == "__setitem__" else None
        if not isinstance(held, OnDevice) and any(isinstance(each, OnDevice) for each in parts):
            raise MixedDevices("a CPU tensor indexed by one of the device")
        for each in parts:
            if not isinstance(each, OnDevice):
                self.uploads += 1
            elif (not each.dim()) if each.dtype != torch.bool else (
                    name == "__getitem__" or (isinstance(value, Tensor) and value.numel() > 1)):
                self._sync("index")
        if isinstance(value, Tensor) and value.dim() and isinstance(value, OnDevice) != isinstance(held, OnDevice):
            if parts:
                raise MixedDevices("values of one device put into places of a tensor of the other")
            self._moved(held)

    def _moved(self, target: Any) -> None:
        if isinstance(target, OnDevice):
            self.uploads += 1
        else:
            self._sync("copy")

    def _sync(self, what: str, times: int = 1) -> None:
        self.syncs += times
        self.where[what] = self.where.get(what, 0) + times


def _find(values: Iterable[Any], tensors: list[Tensor], devices: list[Any]) -> None:
    """Append the tensors and what may name a device; torch's own walk takes longer than the operations."""
    for value in values:
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, torch.device | str):
            devices.append(value)
        elif isinstance(value, tuple | list):
            _find(value, tensors, devices)


def _place(value: Any) -> Any:
    plain = isinstance(value, Tensor) and not isinstance(value, OnDevice)
    return value.as_subclass(OnDevice) if plain else value  # type: ignore[type-var]


def _taken(value: Any) -> Any:
    return value.as_subclass(Tensor) if isinstance(value, OnDevice) else value


def _here(value: Any) -> Any:
    """Replace the simulated device by the CPU."""
    return CPU if (isinstance(value, torch.device) and value.type == "cuda") or (
        isinstance(value, str) and value.startswith("cuda")) else value


def moved(model: Any) -> Any:
    """Move the model's weights to the device, in place."""
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            held.update({key: _place(value.detach()) for key, value in held.items() if value is not None})
    return model


@contextmanager
def strict() -> Iterator[Strict]:
    """Apply the device's rules to the code inside; a random generator of the device is one of the CPU."""
    with Strict() as rules, patch.object(torch, "Generator", lambda device: GENERATOR(_here(device))):
        yield rules


