"""Correction of p-values for multiple tests."""

import math
from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the adjusted p-values of a family of tests, in the order given (Holm 1979).

    NaN marks a test that was not made: it stays NaN and does not count.
    """
    made = [index for index, value in enumerate(p_values) if not math.isnan(value)]
    adjusted, worst = [math.nan] * len(p_values), 0.0
    order = np.argsort([p_values[index] for index in made], kind="stable").tolist()
    for rank, index in enumerate(made[i] for i in order):
        worst = max(worst, min(1.0, (len(made) - rank) * p_values[index]))
        adjusted[index] = worst
    return adjusted
