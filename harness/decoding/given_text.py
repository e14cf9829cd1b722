"""A given text in the place of a strategy's choices, and how likely each of its tokens was."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class GivenText:
    """Leaves a strategy no choice but `tokens`, from place `start` of the sequence on, and records their surprisal.

    The distribution is that before any warp of the strategy.
    """

    def __init__(self, start: int, tokens: Sequence[int]) -> None:
        self.start, self.tokens = start, tokens
        self._found = dict[int, Tensor]()

    def warp(self, logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Return logits (N, V) that are finite at the given token alone."""
        only = torch.full_like(logits, -math.inf)
        for row, sequence in enumerate(sequences):
            place = len(sequence) - self.start
            token = self.tokens[place]
            self._found[place] = -logits[row].log_softmax(-1)[token]
            only[row, token] = 0
        return only

    def surprisal(self, chosen: Sequence[int]) -> list[float]:
        """Return -log p of each token in nats; raises `ValueError` unless the strategy chose just these tokens."""
        if list(chosen) != list(self.tokens[:len(chosen)]):
            raise ValueError("the strategy chose other tokens than those of the given text")
        values: list[float] = torch.stack([self._found[place] for place in range(len(chosen))]).tolist()
        return values
