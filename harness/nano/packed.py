"""Weights in 8 or 4 bits: whole numbers times a float16 scale for each row of a matrix, or for 64 numbers of a row."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness import nano

PLUS, MIXERS = "plus", "mixers"  # what is packed: what is added to nano's weights, or all that is not nano's
FILE = nano.PACKED_FILE
LEVELS = 127
SCALE = ".scale"
FEW, GROUP, HALVES = 7, 64, ".halves"  # of 4 bits: the greatest number, the numbers of a scale, two numbers in a byte


def packed(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return whole numbers (R, …) in int8 for a matrix (R, …), and the scales (R,) of its rows in float16."""
    rows = weight.detach().float().flatten(1)
    scales = (rows.abs().amax(1) / LEVELS).clamp(min=1e-7).half()
    numbers = (rows / scales.float()[:, None]).round().clamp(-LEVELS, LEVELS)
    return numbers.to(torch.int8).view(weight.shape), scales


def unpacked(numbers: Tensor, scales: Tensor) -> Tensor:
    """Return the matrix (R, …) in float32 that `packed` stands for."""
    return (numbers.float().flatten(1) * scales.float()[:, None]).view(numbers.shape)


def halved(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a matrix (R, C) in 4 bits, two numbers in a byte (R, C/2) of uint8, and the scales (R, C/64) in float16.

    C is a multiple of 64.
    """
    groups = weight.detach().float().reshape(len(weight), -1, GROUP)
    scales = (groups.abs().amax(2) / FEW).clamp(min=1e-7).half()
    numbers = (groups / scales.float()[..., None]).round().clamp(-FEW, FEW).flatten(1) + FEW + 1
    return (numbers[:, ::2] * 16 + numbers[:, 1::2]).to(torch.uint8), scales


def whole(halves: Tensor, scales: Tensor) -> Tensor:
    """Return the matrix (R, C) in float32 that `halved` stands for."""
    numbers = torch.stack([halves // 16, halves % 16], 2).flatten(1).float() - FEW - 1
    groups: Tensor = numbers.view(len(numbers), -1, GROUP) * scales.float()[..., None]
    return groups.flatten(1)


def save(weights: Mapping[str, Tensor], folder: Path, bits: int = 8) -> None:
    """Write weights to a folder: matrices in 8 or 4 bits, vectors in float16."""
    from safetensors.torch import save_file

    parts = dict[str, Tensor]()
    for name, weight in weights.items():
        if weight.dim() > 1 and bits == 4:
            parts[name + HALVES], parts[name + SCALE] = halved(weight)
        elif weight.dim() > 1:
            parts[name], parts[name + SCALE] = packed(weight)
        else:
            parts[name] = weight.detach().half()
    save_file({name: part.contiguous() for name, part in parts.items()}, folder / FILE)


def load(folder: Path) -> dict[str, Tensor]:
    """Return the weights in a folder in float32."""
    from safetensors.torch import load_file

    parts, found = load_file(folder / FILE), dict[str, Tensor]()
    for name, part in parts.items():
        if name.endswith(HALVES):
            found[name.removesuffix(HALVES)] = whole(part, parts[name.removesuffix(HALVES) + SCALE])
        elif not name.endswith(SCALE):
            found[name] = unpacked(part, parts[name + SCALE]) if name + SCALE in parts else part.float()
    return found


def complete(weights: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """Return the weights of a whole model of this configuration, whose field `nano` says what is nano's.

    They are nano's `plus` these, or nano's in all but the `mixers`, or, without that field, these alone.
    """
    from safetensors.torch import load_file

    if not (use := getattr(config, "nano", "")):
        return dict(weights)
    plain = load_file(nano.weights(nano.NANO) / "model.safetensors")
    return added(plain, weights) if use == PLUS else but_attention(plain) | dict(weights)


def but_attention(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a Llama but for its attention, under their names in a hybrid model of Granite 4."""
    found = {name.replace(".mlp.down_proj.", ".shared_mlp.output_linear."): weight for name, weight in weights.items()
             if not any(part in name for part in (".self_attn.", ".gate_proj.", ".up_proj."))}
    for name in (name for name in weights if ".gate_proj." in name):
        both = weights[name], weights[name.replace(".gate_proj.", ".up_proj.")]
        found[name.replace(".mlp.gate_proj.", ".shared_mlp.input_linear.")] = torch.cat(both)
    return found


def added(base: Mapping[str, Tensor], change: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights plus their changes; a change with more rows begins with those of the weights."""
    found = {name: one.clone() for name, one in change.items()}
    for name, one in found.items():
        one[:len(base[name])] += base[name].float()
    return found
