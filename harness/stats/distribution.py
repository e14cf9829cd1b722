"""Tests whether tokens were drawn from given distributions, for vocabularies of any size.

Each token's exact conditional distribution p (V,) is known. There are four kinds of tests. Shares: the vocabulary is
divided into groups that depend on the preceding tokens only, and the observed tokens per group are compared with the
group's mass under p. Score: the same for the sum of a function of the token. Transform: u = F(x−) + v·p(x) in a fixed
order of the vocabulary is uniform whatever p is (Brockwell 2007, Universal residuals). Pairs: successive u of one
sequence are independent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, chisquare, kstest

FEWEST = 10   # minimum expected tokens of a group; smaller groups are merged with the last one
SQUARE = 4    # pairs of u are counted in SQUARE × SQUARE cells

Numbers = NDArray[np.float64]


@dataclass
class Shares:
    """Observed and expected tokens in each of a few groups."""

    names: tuple[str, ...]
    seen: Numbers = field(init=False)
    expected: Numbers = field(init=False)
    covariance: Numbers = field(init=False)

    def __post_init__(self) -> None:
        size = len(self.names)
        self.seen, self.expected, self.covariance = np.zeros(size), np.zeros(size), np.zeros((size, size))

    def add(self, mass: Numbers, group: NDArray[np.int64]) -> None:
        """Add N tokens: `mass` (N, G) is each group's probability, `group` (N,) the group of the drawn token."""
        self.seen += np.bincount(group, minlength=len(self.names))
        self.expected += mass.sum(0)
        self.covariance += np.diag(mass.sum(0)) - mass.T @ mass

    def p_value(self) -> float:
        """Return the chi-square p-value of seen against expected tokens; 1 if there are too few."""
        total = self.expected.sum()
        large = [i for i in range(len(self.names)) if FEWEST <= self.expected[i] <= total - FEWEST]
        if len(large) == len(self.names):
            large = large[:-1]
        gap, covariance = (self.seen - self.expected)[large], self.covariance[np.ix_(large, large)]
        rank = int(np.linalg.matrix_rank(covariance, tol=1e-6 * max(1.0, float(total)))) if large else 0
        if not rank:
            return 1.0
        return float(chi2.sf(gap @ np.linalg.pinv(covariance, hermitian=True) @ gap, rank))


@dataclass
class Score:
    """The observed and expected sum of a bounded function of the tokens."""

    seen: float = 0.0
    expected: float = 0.0
    variance: float = 0.0

    def add(self, seen: Numbers, mean: Numbers, variance: Numbers) -> None:
        """Add N tokens: the function's value at each, and its mean and variance under p."""
        self.seen += float(seen.sum())
        self.expected += float(mean.sum())
        self.variance += float(variance.sum())

    def p_value(self) -> float:
        """Return the two-sided normal p-value; 1 if the function hardly varies."""
        return float(chi2.sf((self.seen - self.expected) ** 2 / self.variance, 1)) if self.variance > 1 else 1.0


def uniform(u: Numbers) -> float:
    """Return the Kolmogorov-Smirnov p-value that all of `u` are uniform on [0, 1]."""
    return float(kstest(u.ravel(), "uniform").pvalue) if u.size else 1.0


def independent(u: Numbers) -> float:
    """Return the chi-square p-value that successive numbers in rows of `u` (sequences, tokens) are independent.

    NaN marks unknown values. Pairs do not overlap, so they are independent of each other.
    """
    even = u[:, :u.shape[1] // 2 * 2].reshape(-1, 2)
    pairs = even[~np.isnan(even).any(1)]
    if len(pairs) < FEWEST * SQUARE ** 2:
        return 1.0
    cells = np.minimum((pairs * SQUARE).astype(int), SQUARE - 1)
    return float(chisquare(np.bincount(cells[:, 0] * SQUARE + cells[:, 1], minlength=SQUARE ** 2)).pvalue)


def any_of(p_values: Sequence[float]) -> float:
    """Combine the p-values of several tests of the same tokens, dependent or not (Bonferroni)."""
    return min(1.0, len(p_values) * min(p_values, default=1.0))
