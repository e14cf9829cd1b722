"""Tokens that a model's generation configuration forces at the first and at the last place of an answer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from harness.engine.logit_warps import Warp


@dataclass(frozen=True)
class Forced:
    """The token that every answer begins with (`first`), and the one that ends it at its limit (`last`), if any.

    They are `forced_bos_token_id` and `forced_eos_token_id` of transformers.
    """

    first: int | None = None
    last: int | None = None

    def warp(self, start: int, limit: int) -> Warp | None:
        """Return the warp for an answer of at most `limit` tokens that begins at index `start`; None without a token.

        The logits of a forced place are 0 for its token and -inf for all others.
        """
        if self.first is None and self.last is None:
            return None

        def token(count: int) -> int | None:
            return self.last if count == limit - 1 and self.last is not None else self.first if not count else None

        def warp(logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
            forced = [(row, one) for row, sequence in enumerate(sequences)
                      if (one := token(len(sequence) - start)) is not None]
            if not forced:
                return logits
            logits = logits.clone()
            for row, one in forced:
                logits[row] = -math.inf
                logits[row, one] = 0
            return logits
        return warp
