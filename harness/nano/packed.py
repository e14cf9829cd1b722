"""Weights in 8 bits: each row of a matrix as whole numbers from -127 to 127 times one float16 scale."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

FILE = "packed.safetensors"
LEVELS = 127
SCALE = ".scale"


def packed(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return whole numbers (R, …) in int8 for a matrix (R, …), and the scales (R,) of its rows in float16."""
    rows = weight.detach().float().flatten(1)
    scales = (rows.abs().amax(1) / LEVELS).clamp(min=1e-7).half()
    numbers = (rows / scales.float()[:, None]).round().clamp(-LEVELS, LEVELS)
    return numbers.to(torch.int8).view(weight.shape), scales


def unpacked(numbers: Tensor, scales: Tensor) -> Tensor:
    """Return the matrix (R, …) in float32 that `packed` stands for."""
    return (numbers.float().flatten(1) * scales.float()[:, None]).view(numbers.shape)


def save(weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write weights to a folder: matrices in 8 bits, vectors in float16."""
    from safetensors.torch import save_file

    parts = dict[str, Tensor]()
    for name, weight in weights.items():
        if weight.dim() > 1:
            parts[name], parts[name + SCALE] = packed(weight)
        else:
            parts[name] = weight.detach().half()
    save_file({name: part.contiguous() for name, part in parts.items()}, folder / FILE)


def load(folder: Path) -> dict[str, Tensor]:
    """Return the weights in a folder in float32."""
    from safetensors.torch import load_file

    parts = load_file(folder / FILE)
    return {name: unpacked(part, parts[name + SCALE]) if name + SCALE in parts else part.float()
            for name, part in parts.items() if not name.endswith(SCALE)}
