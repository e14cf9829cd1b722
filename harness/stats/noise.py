"""Measurement noise of times: noise between identical runs, drift, and outliers.

All functions take natural logarithms of times, so effects are ratios.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import linregress, median_abs_deviation

from harness.stats.bootstrap import Interval, Numbers, t_interval
from harness.stats.paired import mean_test

FAR = 10.0  # robust standard deviations, as in hyperfine; times have longer tails than the usual 3.5 assumes


class Noise(NamedTuple):
    """Identical work timed twice: `shift` is the mean log-ratio with its interval, `spread` (log) the standard
    deviation of one time, `p_value` tests whether the mean is zero, `floor` (log) is half of the 95 % interval.
    """

    shift: Interval
    spread: float
    p_value: float
    floor: float
    pairs: int


class Drift(NamedTuple):
    """A trend of log times: `change` is its total from the first moment to the last."""

    change: float
    p_value: float
    moments: int


def noise(ratios: ArrayLike, clusters: ArrayLike) -> Noise | None:
    """Estimate the noise of a machine from log-ratios of times of identical work; None below two clusters.

    One time has 1 / √2 of the spread of a ratio of two.
    """
    numbers = np.asarray(ratios, dtype=float)
    shift = t_interval(numbers, clusters)
    if np.isnan(shift.low):
        return None
    return Noise(shift, float(numbers.std(ddof=1) / np.sqrt(2)), mean_test(numbers, clusters),
                 (shift.high - shift.low) / 2, len(numbers))


def drift(logs: ArrayLike, moments: ArrayLike, blocks: ArrayLike, kinds: ArrayLike | None = None) -> Drift | None:
    """Fit the trend of log times over the `moments` (seconds) of measurement; None below four blocks.

    Times of one block (all strategies on one example) are not independent, so the least-squares line is fitted to block
    medians. Blocks of different `kinds` (one per log) may do different work: then the mean of each kind is subtracted
    from both variables. The p-value is Student's t for the slope.
    """
    numbers, when, groups = np.asarray(logs, dtype=float), np.asarray(moments, dtype=float), np.asarray(blocks)
    if not numbers.size:
        return None
    _, index = np.unique(groups, return_inverse=True)
    order = np.argsort(index, kind="stable")
    cuts = np.flatnonzero(np.diff(index[order])) + 1
    heights = np.array([np.median(part) for part in np.split(numbers[order], cuts)])
    places = np.array([part.mean() for part in np.split(when[order], cuts)])
    span = np.ptp(places)
    if kinds is not None:
        _, kind = np.unique(np.asarray(kinds)[order][np.append(0, cuts)], return_inverse=True)
        heights, places = (side - (np.bincount(kind, side) / np.bincount(kind))[kind] for side in (heights, places))
    if len(heights) < 4 or np.ptp(places) == 0:
        return None
    line = linregress(places, heights)
    return Drift(float(line.slope * span), float(line.pvalue), len(heights))


def robust_z(logs: ArrayLike) -> Numbers:
    """Return each number's distance from the median in robust standard deviations (Iglewicz and Hoaglin 1993).

    The scale is 1.4826 times the median absolute deviation; zeros if more than half of the numbers are equal.
    """
    numbers = np.asarray(logs, dtype=float)
    if not numbers.size:
        return numbers
    scale = float(median_abs_deviation(numbers, scale="normal"))
    return (numbers - np.median(numbers)) / scale if scale else np.zeros(numbers.shape)


def outliers(logs: ArrayLike, far: float = FAR) -> NDArray[np.int64]:
    """Return the indices of numbers that are more than `far` robust standard deviations from the median."""
    return np.flatnonzero(np.abs(robust_z(logs)) > far)
