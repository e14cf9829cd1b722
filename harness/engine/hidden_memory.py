"""Hidden states of the tokens of one sequence, kept beside its KV cache."""

from collections.abc import Sequence

import torch
from torch import Tensor


class HiddenMemory:
    """Hidden states (T, D) by slot, in a tensor that at least doubles when it is full."""

    def __init__(self) -> None:
        self._states = torch.empty(0, 0)

    def first(self, count: int) -> Tensor:
        """Return the hidden states (`count`, D) of the first slots."""
        return self._states[:count]

    def write(self, hidden: Tensor, start: int) -> None:
        """Store hidden states (N, D) in the slots from `start` on."""
        end = start + len(hidden)
        if end > len(self._states):
            grown = hidden.new_empty(max(256, 1 << (end - 1).bit_length()), hidden.shape[1])
            if len(self._states):
                grown[:len(self._states)] = self._states
            self._states = grown
        self._states[start:end] = hidden

    def move(self, sources: Sequence[int], start: int) -> None:
        """Copy the slots `sources` to the slots from `start` on."""
        self._states[start:start + len(sources)] = self._states[list(sources)]
