"""Two measurements of the same things: does one differ from the other, and by how much?

Differences come in clusters (the samples, turns and repeats of one question), and clusters are what is independent.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, norm, t

from harness.stats.bootstrap import Interval, Numbers, cluster_sums, mean_interval, share_interval, standard_error

EXACT = 13      # clusters whose signs are all tried
LIMIT = 1000    # clusters from which on the sum is normal to any digit that is shown
DRAWS = 9999
SAME = 1e-9     # relative: sums that differ by rounding alone are ties


def mcnemar(first: ArrayLike, second: ArrayLike) -> float:
    """Exact two-sided p-value that two lists of right (1) and wrong (0) answers are equally often right.

    McNemar 1947 in its exact form: of the n pairs in which one alone is right, the first is in Binomial(n, 1/2).
    1 when there is no such pair. The lists must be of one length, else ValueError.
    """
    one, other = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if one.shape != other.shape:
        raise ValueError(f"two lists of one length are needed, not {one.shape} and {other.shape}")
    better, worse = int((one > other).sum()), int((one < other).sum())
    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def sign_flip(differences: ArrayLike, clusters: ArrayLike, *, draws: int = DRAWS, seed: int = 0) -> float:
    """Two-sided p-value that the mean of paired `differences` is zero, by swapping the pairs of whole clusters.

    The randomisation test of Fisher 1935 (The Design of Experiments, section 21): when both sides are the same, each
    cluster's sum might as well have had the other sign. All signs are tried for up to 13 clusters that differ, `draws`
    of them for more, and the normal limit of the same law is taken from 1,000 on. 1 when nothing differs.
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
    """The p-value of `mcnemar` where each cluster is one pair of right-or-wrong answers, else that of `sign_flip`.

    NaN when there are no pairs.
    """
    numbers, groups = np.asarray(differences, dtype=float), np.asarray(clusters)
    if not numbers.size:
        return float("nan")
    if np.isin(numbers, (-1, 0, 1)).all() and len(np.unique(groups)) == len(groups):
        return mcnemar(numbers > 0, numbers < 0)
    return sign_flip(numbers, groups)


def mean_test(values: ArrayLike, clusters: ArrayLike) -> float:
    """Two-sided p-value that the mean of `values` is zero, clusters being what is independent.

    Student's t of the mean over its clustered standard error, which goes with the interval of `mean_interval`; unlike
    signs it can be small with few clusters, and it supposes that their means scatter about normally. NaN below two
    clusters; where nothing scatters 1 for a mean of zero, else 0.
    """
    sums, counts = cluster_sums(values, clusters)
    if len(sums) < 2:
        return float("nan")
    mean, error = float(sums.sum() / counts.sum()), standard_error(sums, counts)
    if not error:
        return float(mean == 0)
    return float(2 * t.sf(abs(mean) / error, len(sums) - 1))


def difference_interval(differences: ArrayLike, clusters: ArrayLike, *, level: float = 0.95) -> Interval:
    """The mean of paired differences of scores from 0 to 1, with the interval of `mean_interval`.

    Where no pair differs resampling sees no spread at all; then the ends are what Wilson's interval allows the share
    of clusters that differ to be.
    """
    found = mean_interval(differences, clusters, level=level)
    if np.any(differences) or np.isnan(found.low):
        return found
    reach = share_interval(np.zeros(np.size(differences)), clusters, level=level).high
    return Interval(found.mean, -reach, reach)


def _flipped(bits: NDArray[Any], sums: Numbers) -> Numbers:
    """The sum after each row of `bits` has said whose sign is turned."""
    flipped: Numbers = sums.sum() - 2 * (bits.astype(np.float64) @ sums)
    return flipped
