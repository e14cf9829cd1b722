"""Tests whether two sets of texts were drawn from one distribution that is not known."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DRAWS = 19_999  # permutations: the smallest p-value is 1 / 20,000
CHUNK = 4_000   # permutations in memory at a time

Numbers = NDArray[np.float64]


class Text(NamedTuple):
    """A sequence of units, such as token ids, and any `figures` of it, as many for every text of a test."""

    units: Sequence[Hashable]
    figures: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Group:
    """The texts of both sides after one prompt, of which the first `size` are of the first side.

    `kernels` (2, N, N) count the places in which two texts have the same unit, and the same two units in a row.
    """

    size: int
    kernels: Numbers
    figures: Numbers

    def statistics(self, first: Numbers) -> Numbers:
        """Return (B, S) statistics if the rows of `first` (B, N) mark the texts of the first side with 1."""
        one, two = self.size, first.shape[1] - self.size
        columns = list[Numbers]()
        for kernel in self.kernels:
            to_first = first @ kernel
            of_first = (to_first * first).sum(1)
            across = to_first.sum(1) - of_first
            alike, other = of_first / one ** 2, (kernel.sum() - of_first - 2 * across) / two ** 2
            columns += [alike + other - 2 * across / (one * two), alike - other]
        sums = first @ self.figures
        return np.column_stack([*columns, sums / one - (self.figures.sum(0) - sums) / two])


def same_distribution(groups: Sequence[tuple[Sequence[Text], Sequence[Text]]], figures: Sequence[str] = (), *,
                      draws: int = DRAWS, seed: int = 0) -> tuple[float, dict[str, float]]:
    """Return the p-value that both sides of every group follow the same distribution, and that of each statistic.

    A permutation test (Fisher 1935): under the hypothesis the texts of a group can be exchanged between the sides, so
    its p-value is exact whatever the distribution is. The statistics are the maximum mean discrepancies (Gretton et al.
    2012, A kernel two-sample test) of units and of pairs of neighbours, how much more alike the texts of one side are,
    and the mean difference of each of the `figures`; the most extreme one in units of its standard deviation decides.
    Shorter texts end in a unit of their own. 1 without a group with two sides.
    """
    rng, compared = np.random.default_rng(seed), [_group(*sides) for sides in groups if all(sides)]
    names = ("units", "alike", "neighbours", "alike neighbours", *figures)
    if not compared:
        return 1.0, dict.fromkeys(names, 1.0)
    values = np.zeros((1 + draws, len(names)))
    for group in compared:
        marks = (np.arange(group.kernels.shape[1]) < group.size).astype(float)
        values[0] += group.statistics(marks[None])[0]
        for start in range(1, 1 + draws, CHUNK):
            mixed = rng.permuted(np.tile(marks, (min(CHUNK, 1 + draws - start), 1)), axis=1)
            values[start:start + CHUNK] += group.statistics(mixed)
    spread = values.std(0)
    scores = (values - values.mean(0)) / np.where(spread > 1e-12, spread, np.inf)
    scores[:, 1::2][:, :2] = np.abs(scores[:, 1::2][:, :2])  # which side is more alike has a sign
    scores[:, 4:] = np.abs(scores[:, 4:])
    reached = (scores >= scores[0] - 1e-9).mean(0)
    return float((scores.max(1) >= scores[0].max() - 1e-9).mean()), dict(zip(names, map(float, reached), strict=True))


def _group(first: Sequence[Text], second: Sequence[Text]) -> _Group:
    texts = [*first, *second]
    table = np.full((len(texts), max(1, *(len(text.units) for text in texts))), -1)
    numbers: dict[Hashable, int] = {}
    for row, text in zip(table, texts, strict=True):
        row[:len(text.units)] = [numbers.setdefault(unit, len(numbers)) for unit in text.units]
    same = table[:, None] == table[None]
    kernels = np.stack([same.sum(-1), (same[..., 1:] & same[..., :-1]).sum(-1)]).astype(float)
    return _Group(len(first), kernels, np.array([text.figures for text in texts], dtype=float))
