"""pass@k: the probability that at least one of k samples is correct."""

import math


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Return the unbiased estimate `1 - C(n-c, k) / C(n, k)` from c correct ones among n samples.

    Raises ValueError unless 0 <= right <= samples and 1 <= k <= samples.
    """
    if not (0 <= right <= samples and 1 <= k <= samples):
        raise ValueError(f"pass@{k} cannot be estimated from {right} right ones among {samples} samples")
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)
