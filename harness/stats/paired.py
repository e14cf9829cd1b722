"""Tests and intervals for paired differences.

Differences come in clusters (the samples, turns and repeats of one question); only clusters are independent.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, norm, t

from harness.stats.bootstrap import Interval, Numbers, cluster_sums, mean_interval, share_interval, standard_error

EXACT = 13      # maximum clusters for which all signs are enumerated
LIMIT = 1000    # clusters from which the normal approximation is used
DRAWS = 9999
SAME = 1e-9     # relative tolerance below which sums are ties


def mcnemar(first: ArrayLike, second: ArrayLike) -> float:
    """Return the exact two-sided p-value that two lists of right (1) and wrong (0) answers are equally often right.

    McNemar 1947 in its exact form: of the n pairs in which only one is right, the first is in Binomial(n, 1/2). 1 if
    there is no such pair. Raises ValueError unless the lists have the same length.
    """
    one, other = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if one.shape != other.shape:
        raise ValueError(f"two lists of one length are needed, not {one.shape} and {other.shape}")
    better, worse = int((one > other).sum()), int((one < other).sum())
    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def sign_flip(differences: ArrayLike, clusters: ArrayLike, *, draws: int = DRAWS, seed: int = 0) -> float:
    """Return the two-sided p-value that the mean of paired `differences` is zero, by flipping signs of clusters.

    The randomisation test of Fisher 1935 (The Design of Experiments, section 21): without a difference, each cluster's
    sum has either sign with equal probability. All signs are enumerated for up to 13 clusters that differ, `draws` of
    them for more, and the normal approximation is used from 1,000. 1 if nothing differs.
    """
    sums = cluster_sums(differences, clusters)[0]
    sums = sums[sums != 0]
    size, total = len(sums), abs(float(sums.sum()))
    if not size:
        return 1.0
    if size >= LIMIT:
        return float(2 * norm.sf(total / np.sqrt((sums ** 2).sum())))
    reached = total - SAME * float(np.abs(sums).sum())
    if size <= EXACT:
        every = (np.arange(2 ** size)[:, None] >> np.arange(size)) & 1
        return float((np.abs(_flipped(every, sums)) >= reached).mean())
    raw = np.random.default_rng(seed).integers(256, size=(draws, -(-size // 8)), dtype=np.uint8)
    some = np.unpackbits(raw, axis=1)[:, :size]
    return float((1 + (np.abs(_flipped(some, sums)) >= reached).sum()) / (1 + draws))


def paired_test(differences: ArrayLike, clusters: ArrayLike) -> float:
    """Return the p-value of `mcnemar` if each cluster is one pair of scores 0 or 1, otherwise that of `sign_flip`.

    NaN if there are no pairs.
    """
    numbers, groups = np.asarray(differences, dtype=float), np.asarray(clusters)
    if not numbers.size:
        return float("nan")
    if np.isin(numbers, (-1, 0, 1)).all() and len(np.unique(groups)) == len(groups):
        return mcnemar(numbers > 0, numbers < 0)
    return sign_flip(numbers, groups)


def mean_test(values: ArrayLike, clusters: ArrayLike) -> float:
    """Return the two-sided p-value that the mean of clustered `values` is zero.

    Student's t of the mean over its clustered standard error; `t_interval` is the interval of this test. Unlike that of
    the sign-flip test it can be small with few clusters, and it assumes that cluster means are roughly normal. NaN
    below two clusters; without variance 1 for a mean of zero, else 0.
    """
    sums, counts = cluster_sums(values, clusters)
    if len(sums) < 2:
        return float("nan")
    mean, error = float(sums.sum() / counts.sum()), standard_error(sums, counts)
    if not error:
        return float(mean == 0)
    return float(2 * t.sf(abs(mean) / error, len(sums) - 1))


def difference_interval(differences: ArrayLike, clusters: ArrayLike, *, level: float = 0.95) -> Interval:
    """Return the mean of paired differences of scores from 0 to 1, with the interval of `mean_interval`.

    If no pair differs, the bootstrap has no variance; the ends are then Wilson's bound on the share of clusters that
    differ.
    """
    interval = mean_interval(differences, clusters, level=level)
    if np.any(differences) or np.isnan(interval.low):
        return interval
    reach = share_interval(np.zeros(np.size(differences)), clusters, level=level).high
    return Interval(interval.mean, -reach, reach)


def _flipped(bits: NDArray[Any], sums: Numbers) -> Numbers:
    """Return the sum for each row of `bits`, where 1 flips a cluster's sign."""
    flipped: Numbers = sums.sum() - 2 * (bits.astype(np.float64) @ sums)
    return flipped
