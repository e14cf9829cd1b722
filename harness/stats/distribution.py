"""Were these tokens drawn from these distributions? Tests that need no list of outcomes, whatever the vocabulary.

Four kinds, all over draws whose exact conditional distribution p (V,) is known. Shares: the vocabulary is cut into
groups that depend on the text before the token alone, and the tokens seen in each are held against the mass that p
gives it. Score: the same for the sum of a function of the token. Transform: u = F(x−) + v·p(x) in a fixed order of
the vocabulary is uniform whatever p is (Brockwell 2007, Universal residuals). Pairs: successive u of one text are
independent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, chisquare, kstest

FEWEST = 10   # tokens expected in a group, else it is counted with the last one
SQUARE = 4    # pairs of u fall into so many times so many cells

Numbers = NDArray[np.float64]


@dataclass
class Shares:
    """Tokens seen and expected in each of a few groups."""

    names: tuple[str, ...]
    seen: Numbers = field(init=False)
    expected: Numbers = field(init=False)
    covariance: Numbers = field(init=False)

    def __post_init__(self) -> None:
        size = len(self.names)
        self.seen, self.expected, self.covariance = np.zeros(size), np.zeros(size), np.zeros((size, size))

    def add(self, mass: Numbers, group: NDArray[np.int64]) -> None:
        """Note N tokens: `mass` (N, G) is what each group had before the draw, `group` (N,) where the token fell."""
        self.seen += np.bincount(group, minlength=len(self.names))
        self.expected += mass.sum(0)
        self.covariance += np.diag(mass.sum(0)) - mass.T @ mass

    def p_value(self) -> float:
        """Chi-square of seen against expected, with the covariance of the draws; 1 when there is nothing to tell."""
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
    """The sum of a bounded function of the tokens, beside what is expected."""

    seen: float = 0.0
    expected: float = 0.0
    variance: float = 0.0

    def add(self, seen: Numbers, mean: Numbers, variance: Numbers) -> None:
        """Note N tokens: the function at each, and its mean and variance before the draw."""
        self.seen += float(seen.sum())
        self.expected += float(mean.sum())
        self.variance += float(variance.sum())

    def p_value(self) -> float:
        """Two-sided normal p-value; 1 when the function hardly varies."""
        return float(chi2.sf((self.seen - self.expected) ** 2 / self.variance, 1)) if self.variance > 1 else 1.0


def uniform(u: Numbers) -> float:
    """p-value of Kolmogorov and Smirnov that all of `u` are uniform on [0, 1]."""
    return float(kstest(u.ravel(), "uniform").pvalue) if u.size else 1.0


def independent(u: Numbers) -> float:
    """Chi-square p-value that successive numbers of each row of `u` (texts, tokens) are independent and uniform.

    NaN marks what is not known. Pairs do not overlap, so they are independent of each other.
    """
    even = u[:, :u.shape[1] // 2 * 2].reshape(-1, 2)
    pairs = even[~np.isnan(even).any(1)]
    if len(pairs) < FEWEST * SQUARE ** 2:
        return 1.0
    cells = np.minimum((pairs * SQUARE).astype(int), SQUARE - 1)
    return float(chisquare(np.bincount(cells[:, 0] * SQUARE + cells[:, 1], minlength=SQUARE ** 2)).pvalue)


def any_of(p_values: Sequence[float]) -> float:
    """One p-value for several tests of the same draws, dependent or not (Bonferroni)."""
    return min(1.0, len(p_values) * min(p_values, default=1.0))
