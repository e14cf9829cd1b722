"""The n-grams of a growing sequence, counted as it grows."""

from collections import defaultdict
from collections.abc import Mapping, Sequence


class Grams:
    """Counts n-grams up to `order`; a token costs `order` updates, whatever the length of the sequence."""

    def __init__(self, order: int, sequence: Sequence[int] = ()) -> None:
        self.order, self.sequence = order, list[int]()
        self._counts = defaultdict[tuple[int, ...], dict[int, int]](dict)
        for token in sequence:
            self.add(token)

    def add(self, token: int) -> None:
        """Append `token` to the sequence."""
        for length in range(min(self.order, len(self.sequence) + 1)):
            counts = self._counts[self._last(length)]
            counts[token] = counts.get(token, 0) + 1
        self.sequence.append(token)

    def after(self, length: int) -> Mapping[int, int]:
        """Return counts of the tokens after the last `length` < `order` tokens; of all tokens for `length` 0."""
        return self._counts.get(self._last(length), {}) if length <= len(self.sequence) else {}

    def _last(self, length: int) -> tuple[int, ...]:
        return tuple(self.sequence[len(self.sequence) - length:])
