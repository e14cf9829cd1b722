"""Randomness of one sample: a counter-based stream that depends on what is sampled, never on what ran before."""

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Stream(Protocol):
    """Where a rule's decisions come from; tests enumerate them."""

    def coin(self, chance: float) -> bool:
        """True with probability `chance`."""
        ...

    def choose(self, weights: Tensor) -> int:
        """An index of `weights` (V,), drawn in proportion; weights need not sum to one."""
        ...

    def uniform(self, count: int) -> Tensor:
        """(count,) float64, each uniform and strictly between 0 and 1."""
        ...

    def branch(self, number: int) -> "Stream":
        """Another stream, the same one for the same `number`, whatever has been drawn from this one."""
        ...


class PhiloxStream:
    """Draws from Philox keyed by a hash of `parts` (run seed, prompt, sample, …)."""

    def __init__(self, *parts: object) -> None:
        digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=16).digest()
        self._key = int.from_bytes(digest, "little")
        self._bits = np.random.Generator(np.random.Philox(key=self._key))

    @property
    def number(self) -> int:
        """A seed below 2⁶³ for whoever draws by other means."""
        return self._key >> 65

    def coin(self, chance: float) -> bool:
        """True with probability `chance`; never when it is zero."""
        return float(self._bits.random()) < chance

    def choose(self, weights: Tensor) -> int:
        """An index of `weights` (V,), drawn in proportion; raises `ValueError` when no weight is positive."""
        total = torch.cumsum(weights.double(), 0)
        drawn = torch.searchsorted(total, self._bits.random() * total[-1:], right=True)
        mass, place = torch.cat([total[-1:], drawn]).tolist()  # one wait for the device
        if not 0 < mass < float("inf"):
            raise ValueError("cannot draw from weights that are all zero or not finite")
        return min(int(place), weights.numel() - 1)

    def uniform(self, count: int) -> Tensor:
        """(count,) float64, each uniform and strictly between 0 and 1."""
        return torch.from_numpy(self._bits.random(count)).clamp_min_(2.0 ** -54)

    def branch(self, number: int) -> "PhiloxStream":
        """A stream keyed by this one's key and `number`."""
        return PhiloxStream("branch", self._key, number)


class Likeliest:
    """Draws the likeliest index every time: drafting at temperature 0 by methods that note what they draw from."""

    def coin(self, chance: float) -> bool:
        """Whether `chance` is more than a half."""
        return chance > 0.5

    def choose(self, weights: Tensor) -> int:
        """The index of the largest of `weights` (V,), the first one among equals."""
        return int(weights.argmax())

    def uniform(self, count: int) -> Tensor:
        """(count,) float64, all a half: noise that prefers nothing."""
        return torch.full((count,), 0.5, dtype=torch.float64)

    def branch(self, number: int) -> "Likeliest":
        """Itself: nothing is left to chance."""
        return self


def gumbel(stream: Stream, count: int) -> Tensor:
    """(count,) float64 standard Gumbel noise; what it lifts highest of some log-probabilities is drawn from them."""
    return -(-stream.uniform(count).log()).log()


def truncated(gumbels: Tensor, height: Tensor) -> Tensor:
    """Gumbel noise (n, V) bent so that the largest of row i is `height[i]` (n,), in log space (Kool et al., app. B.3).

    −log(e^−height − e^−largest + e^−gumbel), which keeps the order within a row; −∞ stays −∞ (arXiv 1903.06059).
    """
    largest, height = gumbels.max(-1, keepdim=True).values, height[:, None]
    v = height - gumbels + torch.log1p(-torch.exp(gumbels - largest))
    return height - v.clamp_min(0) - torch.log1p(torch.exp(-v.abs()))


def shuffled(items: Sequence[int], *parts: object) -> list[int]:
    """The items in a random order that depends on `parts` alone."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    order = np.random.default_rng(int.from_bytes(digest, "little")).permutation(len(items))
    return [items[int(i)] for i in order]
