"""Keys and values that are improved by gradient steps on the tokens read after them."""

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from harness.engine.cache_policy import CachePolicy
from harness.engine.cached_sequence import CachedSequence
from harness.engine.gradients import state_gradient
from harness.engine.session import Work

BETAS, EPSILON = (0.9, 0.999), 1e-8


@dataclass(eq=False)
class Moments:
    """How many tokens of a sequence have been learnt, and Adam's moments of the slots from number `first` on.

    `mean` and `square` are (layers, 2, heads, N, dim), for keys and values, and `steps` (N,).
    """

    learnt: int
    first: int
    mean: Tensor
    square: Tensor
    steps: Tensor

    def of(self, first: int, last: int) -> "Moments":
        """Return those of slots `first` … `last` − 1; slots that have none begin with zeros."""
        if self.mean.numel() == 0:
            return self
        kept, new = slice(first - self.first, None), last - self.first - self.mean.shape[3]
        mean, square = (pad(each, (0, 0, 0, new))[:, :, :, kept]
                        for each in (self.mean, self.square))
        return Moments(self.learnt, first, mean, square, pad(self.steps, (0, new))[kept])

    def step(self, gradient: Tensor) -> Tensor:
        """Update the moments by a gradient (layers, 2, heads, N, dim), and return Adam's direction of descent."""
        if self.mean.numel() == 0:
            self.mean, self.square = torch.zeros_like(gradient), torch.zeros_like(gradient)
            self.steps = torch.zeros(gradient.shape[3], device=gradient.device)
        self.steps = self.steps + 1
        self.mean = BETAS[0] * self.mean + (1 - BETAS[0]) * gradient
        self.square = BETAS[1] * self.square + (1 - BETAS[1]) * gradient.square()
        first, second = (each / (1 - beta ** self.steps)[:, None]
                         for each, beta in zip((self.mean, self.square), BETAS, strict=True))
        return first / (second.sqrt() + EPSILON)


def nothing() -> Moments:
    """Return the moments of a sequence that has not been read."""
    return Moments(0, 0, torch.empty(0), torch.empty(0), torch.empty(0))


@dataclass(frozen=True)
class Optimised(CachePolicy):
    """After each `window` tokens, `steps` steps of Adam on the keys and values of the `slots` before the window.

    Learns from the first `until` tokens of the sequence only. The cost of the steps is added to `work`.
    """

    rate: float
    window: int
    slots: int
    steps: int
    work: Work = field(compare=False)
    until: int = field(compare=False)

    whole = False

    def settle(self, sequence: CachedSequence) -> None:
        """Learn from the windows that are complete."""
        moments: Moments = sequence.row.state or nothing()
        end = min(sequence.cached, self.until)
        while moments.learnt + self.window <= end:
            if moments.learnt:
                moments = self._learn(sequence, moments)
            moments.learnt += self.window
        sequence.row.state = moments

    def _learn(self, sequence: CachedSequence, moments: Moments) -> Moments:
        """Improve the keys and values before the window that begins behind the tokens that are learnt."""
        last, cache = moments.learnt, sequence.engine.cache
        first = max(0, last - self.slots)
        tokens, moments = sequence.tokens[last:last + self.window], moments.of(first, last)
        for _ in range(self.steps):
            _, found = state_gradient(sequence.engine, cache.contents(sequence.row.index, last), first, tokens)
            self.work.forwards += 1
            self.work.positions += len(tokens)
            gradient = torch.stack([torch.stack(pair) for pair in found]).float()
            moves = (self.rate * moments.step(gradient)).to(sequence.engine.dtype)
            sequence.change(first, last, keys=partial(_moved, moves[:, 0]), values=partial(_moved, moves[:, 1]))
        return moments


def _moved(moves: Tensor, layer: int, states: Tensor) -> Tensor:
    return states - moves[layer]
