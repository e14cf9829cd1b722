"""The area under the curve of accuracy over parallelism."""

import math
from collections.abc import Sequence
from itertools import pairwise


def aup(points: Sequence[tuple[float, float]], best: float, *, alpha: float = 3.0, lost: float = 5.0) -> float:
    """Return the AUP of one method on one task (d3LLM, arXiv 2601.07568).

    `points` are pairs of tokens per forward and accuracy in %, one for each setting of the method; those with an
    accuracy of more than `lost` points below that of the slowest are left out. `best` is the best accuracy of any
    method on the task: the further an accuracy is below it, the less its area counts, by exp(−`alpha`(1 − y / best)).
    Plain decoding has one point, (1, y), and the AUP y. Raises `ValueError` without points.
    """
    if not points:
        raise ValueError("an AUP needs at least one point")
    ordered = sorted(points)
    kept = [(rate, y) for rate, y in ordered if y >= ordered[0][1] - lost]
    weighted = [(rate, y * min(math.exp(-alpha * (1 - y / best)), 1.0)) for rate, y in kept]
    areas = [(right - left) * (a + b) / 2 for (left, a), (right, b) in pairwise(weighted)]
    return kept[0][0] * kept[0][1] + sum(areas)
