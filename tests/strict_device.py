"""Simulated devices: CPU tensors that follow CUDA's rules on mixing devices, and count every host sync.

Inside `strict()` all that is made on `DEVICE` is an `OnDevice` tensor, and on `OTHER` an `OnOther` tensor. An operation
that mixes them with each other or with a plain CPU tensor raises `MixedDevices`, apart from what CUDA allows: CPU
tensors without dimensions, CPU tensors as indices, and copies. A *sync* is a wait of the host for the device: a value
or shape that depends on data (`item`, `tolist`, `bool`, `nonzero`, a boolean mask as an index, …) or a copy to the
host. An *upload* is a copy to the device, without a wait: `torch.tensor(…, device=DEVICE)`, `.to(DEVICE)`, or a list or
CPU tensor as an index.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

GENERATOR = torch.Generator
DEVICE, OTHER = torch.device("cuda", 1), torch.device("cuda", 2)
CPU = torch.device("cpu")
SYNCS = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__contains__", "__format__", "__repr__",
         "nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "equal", "allclose", "bincount",
         "is_nonzero", "cpu"}
COPIES = {"to", "copy_", "cpu", "__setitem__"}  # may have tensors of both devices
FORBIDDEN = {"numpy", "__array__"}              # CUDA refuses them; `.cpu()` comes first
PLACE = Tensor.device.__get__  # type: ignore[attr-defined]
ON_CUDA = Tensor.is_cuda.__get__  # type: ignore[attr-defined]


class MixedDevices(RuntimeError):
    """Raised when one operation gets tensors of two devices."""


class OnDevice(Tensor):
    """A tensor that simulates one of `DEVICE`."""

    __torch_function__ = torch._C._disabled_torch_function_impl


class OnOther(OnDevice):
    """A tensor that simulates one of `OTHER`."""


KINDS = {str(DEVICE): OnDevice, str(OTHER): OnOther}


class Strict(TorchFunctionMode):
    """Enforces the rules; all counts are from the start.

    `syncs` and `uploads` are those of the host, `where` counts syncs by operation, and `crossings` are the shapes of
    what was copied from one of the simulated devices to the other.
    """

    def __init__(self) -> None:
        super().__init__()
        self.syncs = self.uploads = 0
        self.where: dict[str, int] = {}
        self.crossings = list[tuple[int, ...]]()

    def __torch_function__(self, func: Callable[..., Any], types: object, args: Sequence[Any] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        """Run one function of torch under the rules."""
        name, kwargs = getattr(func, "__name__", str(func)), dict(kwargs or {})
        tensors, devices = list[Tensor](), list[Any]()
        _find((*args, *kwargs.values()), tensors, devices)
        ours = [each for each in tensors if isinstance(each, OnDevice)]
        if func == PLACE:
            return _device_of(tensors[0])
        if func == ON_CUDA:
            return bool(ours)
        asked = [str(each) for each in devices if str(each).startswith(("cuda", "cpu"))]
        if not ours and not any(each.startswith("cuda") for each in asked):
            return func(*args, **kwargs)
        if name in FORBIDDEN:
            raise TypeError(f"{name} of a device tensor: copy it to the host first")
        there = asked[0].startswith("cuda") if asked else name != "cpu"
        kind = _kind(name, asked, tensors, ours)
        self._count(name, args, tensors, ours, there)
        if asked:
            args, kwargs = tree_map(_here, (args, kwargs))
        result = func(*args, **kwargs)
        if name in {"__setitem__", "tolist"}:
            return result
        if name == "to" and there and isinstance(result, OnDevice) and type(result) is not kind:
            self.crossings.append(tuple(result.shape))
            result = result.clone()
        place = partial(_place, kind) if there else _taken
        return tree_map(place, result) if isinstance(result, tuple | list) else place(result)

    def _count(self, name: str, args: Sequence[Any], tensors: list[Tensor], ours: list[Tensor], there: bool) -> None:
        mixed = len(set(map(type, ours))) > 1 or (
            len(ours) < len(tensors) and any(each.dim() for each in tensors if not isinstance(each, OnDevice)))
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
        if any(isinstance(each, OnDevice) and type(each) is not type(held) for each in parts):
            raise MixedDevices("a tensor indexed by one of another device")
        for each in parts:
            if not isinstance(each, OnDevice):
                self.uploads += 1
            elif (not each.dim()) if each.dtype != torch.bool else (
                    name == "__getitem__" or (isinstance(value, Tensor) and value.numel() > 1)):
                self._sync("index")
        if isinstance(value, Tensor) and value.dim() and _device_of(value) != _device_of(held):
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


def _kind(name: str, asked: Sequence[str], tensors: Sequence[Tensor], ours: Sequence[Tensor]) -> type[Tensor]:
    """Return the class of the results of a function, if they are on a device."""
    if asked:
        return KINDS.get(asked[0], OnDevice)
    return type(tensors[-1] if name == "to" and isinstance(tensors[-1], OnDevice) else ours[0])


def _device_of(value: Tensor) -> torch.device:
    return OTHER if isinstance(value, OnOther) else DEVICE if isinstance(value, OnDevice) else CPU


def _place(kind: type[Tensor], value: Any) -> Any:
    return value.as_subclass(kind) if isinstance(value, Tensor) and type(value) is not kind else value


def _taken(value: Any) -> Any:
    return value.as_subclass(Tensor) if isinstance(value, OnDevice) else value


def _here(value: Any) -> Any:
    """Replace the simulated device by the CPU."""
    return CPU if (isinstance(value, torch.device) and value.type == "cuda") or (
        isinstance(value, str) and value.startswith("cuda")) else value


def moved(model: Any, device: torch.device = DEVICE) -> Any:
    """Move the model's weights to the device, in place."""
    place = partial(_place, KINDS[str(device)])
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            held.update({key: place(value.detach()) for key, value in held.items() if value is not None})
    return model


@contextmanager
def strict() -> Iterator[Strict]:
    """Apply the device's rules to the code inside; a random generator of the device is one of the CPU."""
    with Strict() as rules, patch.object(torch, "Generator", lambda device: GENERATOR(_here(device))):
        yield rules


