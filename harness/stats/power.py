"""What a comparison could have found: the smallest effect that its data would show."""

import math

from numpy.typing import ArrayLike
from scipy.stats import t

from harness.stats.bootstrap import cluster_sums, standard_error


def smallest_effect(differences: ArrayLike, clusters: ArrayLike, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """The true mean of paired differences that a two-sided test at `alpha` finds with probability `power`.

    In the units of `differences` (of log-ratios the log of a ratio): the standard error of the mean, clusters being
    what is independent, times the sum of the two quantiles of t (Bloom 1995; Miller 2024, Adding error bars to evals,
    for paired and clustered scores). NaN below two clusters, and where no difference scatters.
    """
    sums, counts = cluster_sums(differences, clusters)
    size = len(sums)
    if size < 2:
        return math.nan
    reach = t.ppf(1 - alpha / 2, size - 1) + t.ppf(power, size - 1)
    return float(reach * standard_error(sums, counts)) or math.nan


def clusters_needed(clusters: int, found: float, wanted: float) -> int:
    """How many clusters would show an effect `wanted` when `clusters` show one of `found`: errors fall as 1 / √n."""
    return math.ceil(clusters * (found / wanted) ** 2)
