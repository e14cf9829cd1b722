"""How much a sequence repeats itself: pure functions of words, tokens or any other units."""

import math
from collections.abc import Hashable, Sequence


def seq_rep(units: Sequence[Hashable], n: int) -> float | None:
    """Return seq-rep-n, 1 - unique n-grams / n-grams, or None below n units (Welleck et al. 2020, arXiv 1908.04319)."""
    grams = [tuple(units[start : start + n]) for start in range(len(units) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else None


def diversity(units: Sequence[Hashable]) -> float | None:
    """Return the product of 1 - seq-rep-n for n = 2, 3, 4, or None below 4 units (Su et al. 2022, arXiv 2202.06417)."""
    repeated = [seq_rep(units, n) for n in (2, 3, 4)]
    return math.prod(1 - one for one in repeated if one is not None) if repeated[-1] is not None else None
