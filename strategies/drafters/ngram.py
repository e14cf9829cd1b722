"""Drafts what followed the same n-gram earlier in the text."""

from collections.abc import Sequence

from harness.decoding.loop import Step
from harness.engine.tree import TokenTree


class NgramLookup:
    """Looks for the last `max_ngram` … `min_ngram` tokens earlier in the text and proposes the `length` that followed.

    The longest n-gram wins; among its places the earliest that has a full continuation, else the one with the most
    tokens after it; `latest` starts from the other end. With `full` only places with a full continuation count, and
    none that runs into the n-gram itself. `filler` is drafted when nothing is found.
    """

    def __init__(self, max_ngram: int, length: int, latest: bool = False, min_ngram: int = 1, full: bool = False,
                 filler: Sequence[int] = ()) -> None:
        self.max_ngram, self.length, self.latest = max_ngram, length, latest
        self.min_ngram, self.full, self.filler = min_ngram, full, list(filler)

    def draft(self, text: Sequence[int], last: Step, limit: int) -> TokenTree:
        """A chain of at most `limit` tokens; empty when nothing matches and there is no filler."""
        return TokenTree.chain(self.lookup(text)[:limit])

    def lookup(self, text: Sequence[int]) -> list[int]:
        """The continuation (token ids) of the best earlier match; the filler when there is none."""
        text = list(text)
        for size in range(min(self.max_ngram, len(text) - 1), self.min_ngram - 1, -1):
            starts = _places(text, size)
            if starts:
                ordered = starts[::-1] if self.latest else starts
                full = [s for s in ordered if s + size + self.length <= len(text)]
                if self.full:
                    full = [s for s in full if s + size < len(text) - size]
                    if not full:
                        continue
                start = full[0] if full else min(starts)
                return text[start + size:start + size + self.length]
        return self.filler


def _places(text: list[int], size: int) -> list[int]:
    """Where the last `size` tokens stand earlier in the text, in order."""
    tail, first = text[-size:], text[-size]
    found, at, stop = list[int](), -1, len(text) - size
    while True:
        try:
            at = text.index(first, at + 1, stop)
        except ValueError:
            return found
        if text[at:at + size] == tail:
            found.append(at)
