"""Probabilities of tokens by the n-grams of a corpus."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from strategies.drafters.store import Store

Floats = NDArray[np.float64]
WEIGHTS = (0.01, 0.04, 0.15, 0.18, 0.12)  # of the contexts of 1, 2, … tokens (2405.18400; they add up to 0.5)


def followed(store: Store, sequence: Sequence[int], tokens: Sequence[int]) -> Floats:
    """Compute (M,) the share of each of `tokens` among those after the last 1 to 5 tokens of `sequence` in a corpus.

    A context that does not occur in the corpus adds nothing.
    """
    sought, total = np.asarray(tokens), np.zeros(len(tokens))
    for length, weight in enumerate(WEIGHTS[:len(sequence)], 1):
        after = store.tokens[store.positions(sequence[-length:])]  # sorted, ends of texts (−1) first
        after = after[np.searchsorted(after, 0):]
        if not len(after):
            break
        total += weight * (np.searchsorted(after, sought, "right") - np.searchsorted(after, sought)) / len(after)
    return total
