"""A low-rank change of nano's weights: what a model of the family adds to them, in a file of its own."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FILE = "change.safetensors"


@torch.no_grad()
def add(model: Any, folder: Path) -> None:
    """Add the change in a folder to the weights of a model: for each layer `up` (out, R) times `down` (R, in)."""
    from safetensors.torch import load_file

    found = load_file(folder / FILE)
    for name, weight in model.named_parameters():
        if f"{name}.up" in found:
            weight += (found[f"{name}.up"].float() @ found[f"{name}.down"].float()).to(weight)


def save(factors: dict[str, tuple[Tensor, Tensor]], folder: Path) -> None:
    """Write `up` and `down` of each changed weight in float16."""
    from safetensors.torch import save_file

    named = {f"{name}.{part}": factor.detach().half().contiguous() for name, pair in factors.items()
             for part, factor in zip(("up", "down"), pair, strict=True)}
    save_file(named, folder / FILE)
