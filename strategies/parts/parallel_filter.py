"""The filter of `learn2pd`: which places of a window a diffusion language model already predicts as in its answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from harness.errors import UserError

WIDTH = 32  # places of a window, as in the paper
CLOSED = 1.0  # confidence of a place that is filled, or beyond the window
SHAPES = {"up": (WIDTH, WIDTH), "up_bias": (WIDTH,), "down": (WIDTH, WIDTH), "down_bias": (WIDTH,)}
COMMAND = "python -m strategies.tools.learn2pd --model MODEL --out FILE"


@dataclass(frozen=True)
class Filter:
    """Two layers with a ReLU between them, from the confidences of all places to a logit for each."""

    up: Tensor
    up_bias: Tensor
    down: Tensor
    down_bias: Tensor

    def logits(self, confidences: Tensor) -> Tensor:
        """Return the logits (…, 32) that a place is predicted as in the answer, given confidences (…, 32)."""
        return (confidences @ self.up.T + self.up_bias).relu() @ self.down.T + self.down_bias

    def chances(self, confidences: Sequence[float]) -> list[float]:
        """Return the chance of each place of a window of at most 32."""
        row = torch.tensor([*confidences, *[CLOSED] * (WIDTH - len(confidences))])
        found: list[float] = self.logits(row).sigmoid()[:len(confidences)].tolist()
        return found

    def save(self, file: Path) -> None:
        """Write the filter."""
        from safetensors.torch import save_file

        save_file({name: getattr(self, name).detach().contiguous() for name in SHAPES}, file)


@cache
def load(file: Path) -> Filter:
    """Read a filter; raises `UserError` if the file holds none."""
    from safetensors.torch import load_file

    try:
        found: Mapping[str, Tensor] = load_file(file)
    except Exception as error:
        raise UserError(f"{file} cannot be read as a filter; train one with {COMMAND}.") from error
    if {name: tuple(one.shape) for name, one in found.items()} != SHAPES:
        raise UserError(f"{file} holds no filter of learn2pd; train one with {COMMAND}.")
    return Filter(**{name: found[name].float() for name in SHAPES})


def confidences(scores: Sequence[float], first: int, still: Sequence[int]) -> list[float]:
    """Return the confidences of a window from place `first` on: those of `still` open places, 1 of the others."""
    waiting = set(still)
    return [score if place in waiting else CLOSED for place, score in enumerate(scores, first)]
