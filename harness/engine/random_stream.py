"""Random streams: each sample has its own counter-based stream, independent of everything that ran before."""

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

CPU = torch.device("cpu")


class Stream(Protocol):
    """A source of random decisions; tests implement it to enumerate all outcomes."""

    def coin(self, chance: float) -> bool:
        """Return True with probability `chance`."""
        ...

    def choose(self, weights: Tensor) -> int:
        """Return an index sampled in proportion to `weights` (V,), which need not sum to one."""
        ...

    def uniform(self, count: int, device: torch.device = CPU) -> Tensor:
        """Return (count,) float64 on `device`, each uniform and strictly between 0 and 1."""
        ...

    def branch(self, number: int) -> "Stream":
        """Return the substream `number`, independent of what has been sampled from this stream."""
        ...


class PhiloxStream:
    """Samples from a Philox generator keyed by a hash of `parts` (run seed, prompt, sample, …)."""

    def __init__(self, *parts: object) -> None:
        digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=16).digest()
        self._key = int.from_bytes(digest, "little")
        self._bits = np.random.Generator(np.random.Philox(key=self._key))

    @property
    def number(self) -> int:
        """A seed below 2⁶³ for another random generator."""
        return self._key >> 65

    def coin(self, chance: float) -> bool:
        """Return True with probability `chance`, never when it is zero."""
        return float(self._bits.random()) < chance

    def choose(self, weights: Tensor) -> int:
        """Return an index sampled in proportion to `weights` (V,); raises `ValueError` when no weight is positive."""
        return self._choose(weights)[0]

    def _choose(self, weights: Tensor, *others: Tensor) -> tuple[int, list[float]]:
        """Draw an index and copy the values of `others`, one-dimensional, from the device in the same transfer."""
        total = torch.cumsum(weights.double(), 0)
        drawn = torch.searchsorted(total, self._bits.random() * total[-1:], right=True)
        mass, place, *values = torch.cat([total[-1:], drawn, *others]).tolist()
        if not 0 < mass < float("inf"):
            raise ValueError("cannot draw from weights that are all zero or not finite")
        return min(int(place), weights.numel() - 1), values

    def uniform(self, count: int, device: torch.device = CPU) -> Tensor:
        """Return (count,) float64, each uniform and strictly between 0 and 1; other devices draw their own numbers."""
        if device.type == "cpu":
            return torch.from_numpy(self._bits.random(count)).clamp_min_(2.0 ** -54)
        generator = torch.Generator(device).manual_seed(int(self._bits.integers(1 << 63)))
        return torch.rand(count, dtype=torch.float64, device=device, generator=generator).clamp_min_(2.0 ** -54)

    def branch(self, number: int) -> "PhiloxStream":
        """Return the substream keyed by the key of this stream and `number`."""
        return PhiloxStream("branch", self._key, number)


class CopyingStream(PhiloxStream):
    """The same draws as `stream`; a choice also copies `tokens` (N, K) from the device, in the same transfer.

    `copied` holds them afterwards, row by row, and is None before.
    """

    def __init__(self, stream: PhiloxStream, tokens: Tensor) -> None:
        self._key, self._bits = stream._key, stream._bits
        self._tokens = tokens
        self.copied: list[list[int]] | None = None

    def choose(self, weights: Tensor) -> int:
        """Return an index sampled in proportion to `weights` (V,); raises `ValueError` when no weight is positive."""
        index, values = self._choose(weights, self._tokens.flatten())
        width = self._tokens.shape[1]
        self.copied = [[int(token) for token in values[i:i + width]] for i in range(0, len(values), width)]
        return index


class Likeliest:
    """A stream that always takes the likeliest index, for sampling drafters at temperature 0."""

    def coin(self, chance: float) -> bool:
        """Return whether `chance` is above 0.5."""
        return chance > 0.5

    def choose(self, weights: Tensor) -> int:
        """Return the index of the largest of `weights` (V,), the first of equal ones."""
        return int(weights.argmax())

    def uniform(self, count: int, device: torch.device = CPU) -> Tensor:
        """Return (count,) float64, all 0.5, which as noise changes no order."""
        return torch.full((count,), 0.5, dtype=torch.float64, device=device)

    def branch(self, number: int) -> "Likeliest":
        """Return this stream: a deterministic stream needs no substreams."""
        return self


def gumbel(stream: Stream, count: int, device: torch.device = CPU) -> Tensor:
    """Return (count,) float64 standard Gumbel noise, drawn on `device`; argmax of log p plus it is a sample from p."""
    return -(-stream.uniform(count, device).log()).log()


def truncated(gumbels: Tensor, height: Tensor) -> Tensor:
    """Truncate Gumbel noise (n, V) so that the maximum of row i is `height[i]` (n,).

    Computes −log(e^−height − e^−largest + e^−gumbel) stably, which keeps the order within a row; −∞ stays −∞ (Kool et
    al., arXiv 1903.06059, app. B.3).
    """
    largest, height = gumbels.max(-1, keepdim=True).values, height[:, None]
    v = height - gumbels + torch.log1p(-torch.exp(gumbels - largest))
    return height - v.clamp_min(0) - torch.log1p(torch.exp(-v.abs()))


def shuffled(items: Sequence[int], *parts: object) -> list[int]:
    """Return the items in a random order that depends on `parts` only."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    order = np.random.default_rng(int.from_bytes(digest, "little")).permutation(len(items))
    return [items[int(i)] for i in order]
