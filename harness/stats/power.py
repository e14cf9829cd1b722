"""The minimum detectable effect of a paired comparison."""

import math

from numpy.typing import ArrayLike
from scipy.stats import t

from harness.stats.bootstrap import cluster_sums, standard_error


def smallest_effect(differences: ArrayLike, clusters: ArrayLike, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """Return the mean difference that a two-sided test at `alpha` detects with probability `power`.

    In the units of `differences`: the clustered standard error times the sum of the two quantiles of t (Bloom 1995;
    Miller 2024, Adding error bars to evals, for paired and clustered scores). NaN below two clusters or without
    variance.
    """
    sums, counts = cluster_sums(differences, clusters)
    size = len(sums)
    if size < 2:
        return math.nan
    reach = t.ppf(1 - alpha / 2, size - 1) + t.ppf(power, size - 1)
    return float(reach * standard_error(sums, counts)) or math.nan


def clusters_needed(clusters: int, detectable: float, wanted: float) -> int:
    """Return the clusters needed to detect an effect `wanted`, if `clusters` detect one of `detectable`.

    Standard errors fall as 1 / √n.
    """
    return math.ceil(clusters * (detectable / wanted) ** 2)
