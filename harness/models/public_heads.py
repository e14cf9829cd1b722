"""Reads heads that others have published: which file layout a folder has, and what its tensors are called here."""

import copy
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from harness.errors import UserError, first_sentence
from harness.heads.network import Network, TargetParts
from harness.models.head_layouts import EITHER, EMBEDDING, HEAD, LAYOUTS, PARTS, Found, Layout

CONFIG = "config.json"
FILES = (("*_lm_head.safetensors", "*_lm_head.pt"), ("*.safetensors",), ("*.bin", "*.pt"))  # the first found are read
OTHER = ("training_args", "optimizer", "scheduler", "rng_state")  # beginnings of names of files without weights
SIZES = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size", "rms_norm_eps",
         "rope_theta", "rope_scaling", "rope_parameters", "max_position_embeddings", "partial_rotary_factor")
ASSUMED = (0.6, 0.15, 0.07, 0.04, 0.03, 0.02, 0.015, 0.01, 0.01, 0.005)  # shares of right candidates by rank
BROKEN = (OSError, SafetensorError, RuntimeError, EOFError, ValueError, TypeError, KeyError)


def read(folder: Path, target: TargetParts) -> tuple[Layout, Found]:
    """Return the layout of a folder and what it holds for a target; raises `UserError` if it is broken or unknown.

    Tensors that are not used are not read, so that heads may lie in the files of a whole model.
    """
    config, tensors = _config(folder / CONFIG), _tensors(folder)
    layout = next((layout for layout in LAYOUTS if layout.fits(config, tensors)), None)
    if layout is None:
        raise UserError(f"{folder} holds no head of a known layout: its first tensor is {min(tensors)}.")
    found = dict[str, Tensor]()
    for theirs, tensor in tensors.items():
        ours = layout.name(config, theirs)
        if ours is None:
            raise UserError(f"{folder} looks like a head for '{layout.kind}', but that has no tensor {theirs}.")
        if ours:
            read = tensor()
            found[ours if ours != EITHER else HEAD if len(read) == target.vocab else "output.weight"] = read
    target = _own_parts(replace(target, config=_sizes(config)) if layout.own else target, found)
    return layout, Found(config, target, found)


def files(folder: Path) -> list[Path]:
    """Return all files with weights of the first kind that the folder has."""
    return next((found for kind in FILES if (found := sorted(
        path for end in kind for path in folder.glob(end) if not path.name.startswith(OTHER)))), [])


def complete(network: Network, layout: Layout, found: Found) -> dict[str, Tensor]:
    """Return all tensors for the network of a layout, which gets the biases that only the files have.

    Biases that the files do not have are zero.
    """
    tensors, wanted = layout.tensors(found), network.state_dict()
    modules = dict(network.named_modules())
    for name in tensors.keys() - wanted.keys():
        module = modules.get(name.removesuffix(".bias"))
        if name.endswith(".bias") and isinstance(module, nn.Linear):
            module.bias = nn.Parameter(torch.zeros(module.out_features))
    for name in wanted.keys() - tensors.keys():
        if name.endswith(".bias"):
            tensors[name] = torch.zeros_like(wanted[name])
        elif re.fullmatch(layout.kept, name):
            tensors[name] = wanted[name]
    return tensors


def _config(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"The folder {path.parent} holds no head: neither head.json nor {CONFIG} can be read."
                        ) from error
    return found if isinstance(found, dict) else {}


def _sizes(config: Mapping[str, Any]) -> Any:
    """Return the transformers configuration of a head's own layers."""
    from transformers import CONFIG_MAPPING, AutoConfig

    inner = next((config[name] for name in PARTS[:2] if isinstance(config.get(name), dict)), config)
    given = {name: inner[name] for name in SIZES if inner.get(name) is not None}
    try:
        kind = inner.get("model_type")
        return AutoConfig.for_model(kind if kind in CONFIG_MAPPING else "llama", **given)
    except Exception as error:  # the library raises many kinds of errors
        raise UserError(f"The sizes of the head cannot be read in its {CONFIG}: {first_sentence(error)}.") from error


def _tensors(folder: Path) -> dict[str, Callable[[], Tensor]]:
    """Return by name what reads each tensor of all files of the first kind that the folder has."""
    found = dict[str, Callable[[], Tensor]]()
    for file in files(folder):
        try:
            found |= _lazy(file)
        except (*BROKEN, UnpicklingError) as error:
            raise UserError(f"{file} cannot be read as weights: it was cut off, or holds other things.") from error
    if not found:
        raise UserError(f"{folder} has no weights in files {', '.join(end for kind in FILES[1:] for end in kind)}.")
    return found


def _lazy(file: Path) -> dict[str, Callable[[], Tensor]]:
    if file.suffix == ".safetensors":
        with safe_open(file, "pt") as opened:
            return {name: partial(_one, file, name) for name in opened.keys()}  # noqa: SIM118  # it is no mapping
    try:
        tensors = torch.load(file, "cpu", weights_only=True, mmap=True)
    except RuntimeError:  # a file of the old format
        tensors = torch.load(file, "cpu", weights_only=True)
    if not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ValueError(file)
    return {name: partial(Tensor.clone, tensor) for name, tensor in tensors.items()}


def _one(file: Path, name: str) -> Tensor:
    with safe_open(file, "pt") as opened:
        found: Tensor = opened.get_tensor(name)
    return found


def _own_parts(target: TargetParts, found: dict[str, Tensor]) -> TargetParts:
    """Take the embedding and output layer from the tensors, and return a target that has those which differ from its.

    Raises `UserError` if their shapes differ.
    """
    embedding = _own(target.embedding, found.pop(EMBEDDING, None), "embedding")
    return replace(target, embedding=embedding, head=_own(target.head, found.pop(HEAD, None), "output layer"))


Part = TypeVar("Part", bound=nn.Module)


def _own(module: Part, weight: Tensor | None, name: str) -> Part:
    """Return the module, or a copy with another weight if that is not the same."""
    known = module.get_parameter("weight")
    if weight is None:
        return module
    if weight.shape != known.shape:
        raise UserError(f"The head's {name} has the shape {tuple(weight.shape)}, and the model's {tuple(known.shape)}: "
                        "give a head of this model.")
    weight = weight.to(known.device, known.dtype)
    if torch.allclose(weight, known, rtol=0.02, atol=1e-5):  # both are rounded, in different precisions
        return module
    own = copy.deepcopy(module)
    own.weight = nn.Parameter(weight, requires_grad=False)
    return own
