"""Intervals for means and ratios of clustered measurements: by resampling whole clusters, or Student's t."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, norm, t

CHUNK = 4_000_000  # draws held in memory at a time
MANY = 1000  # clusters from which the mean of a resample is approximately normal

Numbers = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate and its interval; the ends are NaN if there is only one cluster."""

    mean: float
    low: float
    high: float


NOTHING = Interval(np.nan, np.nan, np.nan)


def mean_interval(
    values: ArrayLike, clusters: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return the mean of `values`, with a percentile interval from resampling whole clusters.

    The percentiles are widened for few clusters, as the t distribution is, and stay inside the range of `values`. From
    1,000 clusters the normal approximation of the bootstrap is used. The result is NaN without values. Raises
    ValueError unless `clusters` is as long as `values`.
    """
    sums, counts = cluster_sums(values, clusters)
    interval = _t_interval(sums, counts, level)
    if len(sums) < 2:
        return interval
    if len(sums) >= MANY:
        ends = np.array(interval[1:])
    else:  # with few clusters plain percentiles give intervals that are too short
        ends = np.quantile(_resampled(sums, counts, resamples, seed), _tails(len(sums), level))
    low, high = np.clip(ends, np.min(values), np.max(values))
    return Interval(interval.mean, float(low), float(high))


def sums_interval(statistics: ArrayLike, clusters: ArrayLike, score: Callable[[Numbers], float], *,
                  level: float = 0.95, resamples: int = 1000, seed: int = 0) -> Interval:
    """Return the `score` of the sum of the rows of `statistics`, with the interval of resampled whole clusters.

    The percentiles are those of `mean_interval`. The result is NaN without rows. Raises ValueError unless `clusters`
    has one entry per row.
    """
    columns = np.asarray(statistics, dtype=float).T
    if not columns.size:
        return NOTHING
    sums = np.stack([cluster_sums(column, clusters)[0] for column in columns], axis=1)
    size, rng, whole = len(sums), np.random.default_rng(seed), float(score(sums.sum(axis=0)))
    if size < 2:
        return Interval(whole, np.nan, np.nan)
    draws = (np.bincount(rng.choice(size, size), minlength=size) for _ in range(resamples))
    low, high = np.quantile([score(times @ sums) for times in draws], _tails(size, level))
    return Interval(whole, float(low), float(high))


def share_interval(values: ArrayLike, clusters: ArrayLike, *, level: float = 0.95) -> Interval:
    """Return `mean_interval` for scores from 0 to 1.

    If all scores are 0 or all are 1, the bootstrap has no variance; the result is then Wilson's interval for as many
    independent answers as there are clusters.
    """
    interval = mean_interval(values, clusters, level=level)
    if interval.low != interval.high or interval.mean not in (0.0, 1.0):
        return interval
    count = len(np.unique(np.asarray(clusters)))
    ends = binomtest(round(interval.mean * count), count).proportion_ci(level, method="wilson")
    return Interval(interval.mean, float(ends.low), float(ends.high))


def t_interval(values: ArrayLike, clusters: ArrayLike, *, level: float = 0.95) -> Interval:
    """Return the mean of `values`, with Student's t times its clustered standard error on both sides.

    It excludes zero exactly if the p-value of `mean_test` is below 1 - `level`. It is wide with two or three clusters,
    whose spread says little. The result is NaN without values.
    """
    return _t_interval(*cluster_sums(values, clusters), level)


def _t_interval(sums: Numbers, counts: Numbers, level: float) -> Interval:
    if not len(sums):
        return NOTHING
    mean = float(sums.sum() / counts.sum())
    if len(sums) == 1:
        return Interval(mean, np.nan, np.nan)
    reach = float(t.ppf((1 + level) / 2, len(sums) - 1)) * standard_error(sums, counts)
    return Interval(mean, mean - reach, mean + reach)


def ratio_interval(logs: ArrayLike, clusters: ArrayLike, *, level: float = 0.95) -> Interval:
    """Return the geometric mean of ratios given as natural `logs`, with the interval of `t_interval`."""
    interval = t_interval(logs, clusters, level=level)
    return Interval(*(float(np.exp(value)) for value in interval))


def cluster_sums(values: ArrayLike, clusters: ArrayLike) -> tuple[Numbers, Numbers]:
    """Return the sum and the number of `values` in each cluster; raises ValueError unless both lists match."""
    numbers, groups = np.asarray(values, dtype=float), np.asarray(clusters)
    if numbers.shape != groups.shape or numbers.ndim != 1:
        raise ValueError(f"values and clusters must be lists of one length, not {numbers.shape} and {groups.shape}")
    if not numbers.size:
        return np.empty(0), np.empty(0)
    _, index = np.unique(groups, return_inverse=True)
    return np.bincount(index, numbers).astype(float), np.bincount(index).astype(float)


def standard_error(sums: Numbers, counts: Numbers) -> float:
    """Return the standard error of the mean from the sums and counts of at least two clusters.

    It is that of a ratio of means with the small-sample factor n / (n - 1) (Cochran 1977, Sampling techniques, chapter
    6), and 0 if the variance is only rounding.
    """
    residuals, size = sums - counts * (sums.sum() / counts.sum()), len(sums)
    error = float(np.sqrt(size / (size - 1) * (residuals ** 2).sum()) / counts.sum())
    return error if error > 1e-12 * float(np.abs(sums).max() / counts.mean()) else 0.0


def _tails(clusters: int, level: float) -> list[float]:
    """Return the shares of resamples below and above which an interval ends, smaller with few clusters."""
    reach = float(t.ppf((1 + level) / 2, clusters - 1))
    tail = float(norm.cdf(-reach * np.sqrt(clusters / (clusters - 1))))
    return [tail, 1 - tail]


def _resampled(sums: Numbers, counts: Numbers, resamples: int, seed: int) -> Numbers:
    """Return the mean of every resample of the clusters."""
    rng, size, even = np.random.default_rng(seed), len(sums), np.ptp(counts) == 0
    means = np.empty(resamples)
    rows = max(1, CHUNK // size)
    for start in range(0, resamples, rows):
        picks = rng.integers(size, size=(min(rows, resamples - start), size))
        means[start : start + rows] = sums[picks].sum(axis=1) / (counts.sum() if even else counts[picks].sum(axis=1))
    return means
