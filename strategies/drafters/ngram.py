"""Drafting by n-gram lookup: the tokens that followed the same n-gram earlier in the sequence."""

from collections.abc import Sequence

from harness.decoding.loop import Step
from harness.engine.tree import TokenTree


class NgramLookup:
    """Drafts the `length` tokens that followed the last `max_ngram` … `min_ngram` tokens earlier in the sequence.

    The longest n-gram wins; among its matches the earliest that has a full continuation, else the one with the most
    tokens after it; `latest` starts from the other end. With `full` only matches with a full continuation count, and
    none that runs into the n-gram itself. `filler` is drafted when there is no match.
    """

    def __init__(self, max_ngram: int, length: int, latest: bool = False, min_ngram: int = 1, full: bool = False,
                 filler: Sequence[int] = ()) -> None:
        self.max_ngram, self.length, self.latest = max_ngram, length, latest
        self.min_ngram, self.full, self.filler = min_ngram, full, list(filler)

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a chain of at most `limit` tokens; empty when nothing matches and there is no filler."""
        return self.extend(sequence, (), limit)

    def extend(self, sequence: Sequence[int], drafted: Sequence[int], limit: int) -> TokenTree:
        """Draft below `sequence` and the tokens `drafted` below it."""
        return TokenTree.chain(self.lookup([*sequence, *drafted])[:limit])

    def lookup(self, sequence: Sequence[int]) -> list[int]:
        """Return the continuation (token ids) of the best earlier match; the filler when there is none."""
        sequence = list(sequence)
        for size in range(min(self.max_ngram, len(sequence) - 1), self.min_ngram - 1, -1):
            starts = _matches(sequence, size)
            if starts:
                ordered = starts[::-1] if self.latest else starts
                full = [s for s in ordered if s + size + self.length <= len(sequence)]
                if self.full:
                    full = [s for s in full if s + size < len(sequence) - size]
                    if not full:
                        continue
                start = full[0] if full else min(starts)
                return sequence[start + size:start + size + self.length]
        return self.filler


def _matches(sequence: list[int], size: int) -> list[int]:
    """Return the start of every earlier occurrence of the last `size` tokens, in order."""
    tail, first = sequence[-size:], sequence[-size]
    starts, at, stop = list[int](), -1, len(sequence) - size
    while True:
        try:
            at = sequence.index(first, at + 1, stop)
        except ValueError:
            return starts
        if sequence[at:at + size] == tail:
            starts.append(at)
