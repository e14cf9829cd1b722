"""A naive Bayes classifier of texts by their tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class NaiveBayes:
    """The log-probabilities (K, V) of V tokens in texts of K kinds, which are equally frequent."""

    logs: NDArray[np.float64]

    @classmethod
    def of(cls, kinds: Sequence[Sequence[Sequence[int]]], vocab: int) -> "NaiveBayes":
        """Learn from the texts of each kind (token ids); each token counts once more than it occurs."""
        counts = np.stack([np.bincount([token for text in texts for token in text], minlength=vocab) + 1.0
                           for texts in kinds])
        return cls(np.log(counts / counts.sum(1, keepdims=True)))

    def kind(self, text: Sequence[int]) -> int | None:
        """Return the likeliest kind of a text; None for an empty one."""
        return int(self.logs[:, list(text)].sum(1).argmax()) if text else None
