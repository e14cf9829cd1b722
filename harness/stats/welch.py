"""Welch's t test of two independent samples with variances of their own."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import ttest_ind


def welch(first: ArrayLike, second: ArrayLike) -> float:
    """Return the two-sided p-value that both have the same mean (Welch 1947).

    NaN if one has fewer than two values; without any variance 1 for equal means, else 0.
    """
    one, other = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if min(len(one), len(other)) < 2:
        return float("nan")
    if not one.var() and not other.var():
        return float(one[0] == other[0])
    return float(ttest_ind(one, other, equal_var=False).pvalue)
