"""Intervals and p-values for means that hold whenever one stops, also if the scores so far decide when that is.

They are the hedged capital of Waudby-Smith and Ramdas 2024 (Estimating means of bounded random variables by betting,
JRSS B 86, arXiv 2010.09686, theorem 3). One gambler bets that the mean of scores from 0 to 1 is above a number, another
that it is below. If the number is the mean, neither can expect to win, so that by Ville's inequality the capital of
either ever grows by 2 / alpha with a probability of at most alpha / 2. The interval has the numbers that neither
gambler has refuted so far, and the mean of the scores.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from harness.stats.bootstrap import NOTHING, Interval, Numbers, cluster_sums

ALPHA = 0.05
SHARE = 0.5  # of its capital that a gambler risks at most: c in the paper, which recommends 1/2 or 3/4
LEAST = 1e-12  # the smallest mean that is tried


def anytime_interval(scores: ArrayLike, precision: float) -> Interval:
    """Return the mean of independent `scores` from 0 to 1, in the order they came, with its 95 % interval.

    With a probability of 95 % the intervals of all beginnings of the list contain the true mean. The number of scores
    until they are `precision` away from their mean on both sides is about the smallest. The ends are NaN if a score is
    not from 0 to 1, and everything is without scores.
    """
    numbers = np.asarray(scores, dtype=float)
    if not numbers.size:
        return NOTHING
    mean = float(numbers.mean())
    if not ((numbers >= 0) & (numbers <= 1)).all():
        return NOTHING._replace(mean=mean)
    low, high = _lower_end(numbers, precision), 1 - _lower_end(1 - numbers, precision)
    return Interval(mean, min(low, mean), max(high, mean))


def anytime_difference(differences: ArrayLike, precision: float) -> tuple[Interval, float]:
    """Return the mean of independent `differences` of such scores with its 95 % interval, and the p-value of zero.

    Both are as in `anytime_interval`, and the interval excludes zero exactly if the p-value is below 0.05. The p-value
    is NaN without differences.
    """
    halves = (np.asarray(differences, dtype=float) + 1) / 2
    interval = anytime_interval(halves, precision / 2)
    if np.isnan(interval.low):
        return Interval(*(2 * value - 1 for value in interval)), np.nan
    capital = max(_log_capital(side, _bets(side, precision / 2), 0.5) for side in (halves, 1 - halves))
    return Interval(*(2 * value - 1 for value in interval)), float(np.exp(min(0.0, np.log(2) - capital)))


def means_in_order(values: ArrayLike, clusters: ArrayLike) -> Numbers:
    """Return the mean of the `values` of each cluster, in the order in which the clusters first came."""
    sums, counts = cluster_sums(values, clusters)
    order = np.argsort(np.unique(np.asarray(clusters), return_index=True)[1])
    means: Numbers = (sums / counts)[order]
    return means


def _lower_end(numbers: Numbers, precision: float) -> float:
    """Return the largest mean that the gambler on a higher one has refuted; 0 if there is none."""
    bets, wanted = _bets(numbers, precision), np.log(2 / ALPHA)
    if _log_capital(numbers, bets, LEAST) < wanted:
        return 0.0
    return float(brentq(lambda mean: _log_capital(numbers, bets, mean) - wanted, LEAST, 1.0))


def _log_capital(numbers: Numbers, bets: Numbers, mean: float) -> float:
    """Return the log of the largest capital so far of the gambler on a higher mean than this; it falls with `mean`."""
    return float(np.cumsum(np.log1p(np.minimum(bets, SHARE / mean) * (numbers - mean))).max())


def _bets(numbers: Numbers, precision: float) -> Numbers:
    """Return the bet on each number, which may depend on those before it.

    The paper's bets (equation 26) give good intervals at all times. Here one time matters, that at which the interval
    is narrow enough: so they are those with the largest growth (Kelly 1956, to second order) if the mean is `precision`
    away from the number that is to be refuted. The running variance is the paper's (equation 15).
    """
    times = np.arange(1, len(numbers) + 1)
    means = (0.5 + np.cumsum(numbers)) / (times + 1)
    variances = (0.25 + np.cumsum((numbers - means) ** 2)) / (times + 1)
    before = np.append(0.25, variances[:-1])
    bets: Numbers = precision / (before + precision ** 2)
    return bets
