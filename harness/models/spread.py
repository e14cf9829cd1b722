"""One model over several GPUs: where each layer lies, and what a forward copies from one to the next."""

import importlib.util
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from harness.engine.cache import free_bytes
from harness.engine.hooks import decoder_layers
from harness.errors import UserError

SHARE = 0.9  # of a GPU's free memory that weights may take
INSTALL = "pip install 'decodebench[large]'"


def free_of_each(device: str) -> dict[str, int]:
    """Return the bytes that weights may take on each device: all visible GPUs for "cuda", else `device` alone."""
    if not device.startswith("cuda"):
        return {device: free_bytes(device)}
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return {gpu: int(SHARE * free_bytes(gpu)) for gpu in gpus}


def placed(model: Any, kind: str, room: Mapping[str, int]) -> dict[str, str]:
    """Return the device of each part of a model without weights, by name, as `from_pretrained` takes it.

    Whole layers go to the devices of `room` in order: "sequential" fills each one, any other `kind` gives all about
    equally many bytes. Everything else, such as the embedding and the output layer, goes to the first. Raises
    `UserError` where the model does not fit, or a package is missing.
    """
    if not importlib.util.find_spec("accelerate"):
        raise UserError(f"--device-map needs the package accelerate: {INSTALL}")
    names = {module: name for name, module in model.named_modules()}
    layers = [layer.whole for layer in decoder_layers(model)]
    sizes, devices = [_bytes(layer) for layer in layers], list(room)
    rest = _bytes(model) - sum(sizes)
    limits = list(room.values())
    numbers = _filled(rest, sizes, limits if kind == "sequential" else _even(rest, sizes, limits))
    if numbers is None:
        raise UserError(f"{len(sizes)} layers of {max(sizes) / 1e9:.3g} GB and {rest / 1e9:.3g} GB besides, on "
                        f"the first device, do not fit into {' + '.join(f'{each / 1e9:.3g}' for each in limits)} GB; "
                        "give --dtype bfloat16 if it is float32, or a smaller model.")
    return dict.fromkeys((names[each] for each in _others(model, layers)), devices[0]) | {
        names[layer]: devices[number] for layer, number in zip(layers, numbers, strict=True)}


def join(model: Any) -> None:
    """Let the layers of a model that `from_pretrained` has placed run on their devices, and all else on the first.

    The hooks of accelerate would copy masks and positions for every layer, and check every linear layer of each.
    """
    from accelerate.hooks import remove_hook_from_submodules

    remove_hook_from_submodules(model)
    copies, layers = Copies(), [layer.whole for layer in decoder_layers(model)]
    model.get_decoder().register_forward_pre_hook(lambda *_: copies.clear())
    for module in [*layers, *_others(model, layers)]:
        if next(module.parameters(), None) is not None:
            module.register_forward_pre_hook(partial(_brought, copies), with_kwargs=True)


class Copies:
    """The copies that one forward has made of its tensors, so that each is copied once to a device."""

    def __init__(self) -> None:
        self._made = dict[tuple[int, torch.device], tuple[Tensor, Tensor]]()

    def clear(self) -> None:
        """Forget all copies."""
        self._made.clear()

    def there(self, value: Any, device: torch.device) -> Any:
        """Return a tensor, or the tensors in a tuple, list or dict, on a device; anything else as it is."""
        if isinstance(value, Tensor):
            if value.device == device:
                return value
            key = id(value), device
            if key not in self._made:  # with the tensor itself, so that no other gets its id
                self._made[key] = value, value.to(device)
            return self._made[key][1]
        if isinstance(value, tuple | list):
            return type(value)(self.there(each, device) for each in value)
        return {key: self.there(each, device) for key, each in value.items()} if isinstance(value, dict) else value


def _brought(copies: Copies, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    device = next(module.parameters()).device
    return copies.there(args, device), copies.there(kwargs, device)


def _others(module: nn.Module, layers: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """Yield the largest modules within `module` that hold none of the layers."""
    for child in module.children():
        inside = set(child.modules())
        if child in layers:
            continue
        if inside.isdisjoint(layers):
            yield child
        else:
            yield from _others(child, layers)


def _bytes(module: nn.Module) -> int:
    return sum(weight.nbytes for weight in module.parameters())


def _even(rest: int, sizes: Sequence[int], limits: Sequence[int]) -> list[int]:
    """Return the lowest limits of equal devices into which the layers fit; no device exceeds its own limit."""
    def lowered(most: int) -> list[int]:
        return [min(most, limit) for limit in limits]

    return lowered(bisect_left(range(max(limits)), True,
                               key=lambda most: _filled(rest, sizes, lowered(most)) is not None))


def _filled(rest: int, sizes: Sequence[int], limits: Sequence[int]) -> list[int] | None:
    """Return the number of the device of each layer, None if they do not fit; `rest` bytes are on the first device."""
    numbers, number, left = list[int](), 0, limits[0] - rest
    if left < 0:
        return None
    for size in sizes:
        while size > left:
            number += 1
            if number == len(limits):
                return None
            left = limits[number]
        numbers.append(number)
        left -= size
    return numbers
