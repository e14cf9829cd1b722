"""REST: draft the most frequent continuations of the last tokens in a datastore.

He et al. 2023 (arXiv 2311.08252). The longest match of the last `span` … 2 tokens is used: the `length` tokens after
each of `matches` matches (evenly spread) are counted, and the `choices` most frequent prefixes are drafted. `store`
"nano" is the embedded training corpus, for the embedded models; for others name a file made by `python -m
strategies.tools.rest_datastore`. `temperature` and `p` set the distribution, which is exact as drafts count as chosen;
the official code draws a new path from the target at each step and is biased above temperature 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from harness.decoding.loop import Step
from harness.decoding.verified import Verified
from harness.engine.session import Session
from harness.engine.tree import EMPTY, TokenTree
from harness.plugins.strategy import Request, knob
from strategies.drafters import store
from strategies.drafters.trie import trie

SHORTEST = 2  # a match of one token predicts too little


class Retrieval:
    """Drafts from a store."""

    def __init__(self, datastore: store.Store, knobs: "Rest") -> None:
        self.datastore, self.knobs = datastore, knobs

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a tree of at most `choices` nodes and `limit` levels below `sequence`; empty without a match."""
        matches = self.longest(sequence)
        if not len(matches):
            return EMPTY
        if len(matches) > self.knobs.matches:
            matches = matches[np.linspace(0, len(matches) - 1, self.knobs.matches).astype(np.int64)]
        rows = self.datastore.following(matches, min(limit, self.knobs.length))
        return trie(frequent(rows, self.knobs.choices), self.knobs.choices, limit)

    def longest(self, sequence: Sequence[int]) -> store.Ids:
        """Return the positions after the longest suffix of `sequence` in the store, by binary search over lengths."""
        low, high, longest = SHORTEST, min(self.knobs.span, len(sequence)), np.empty(0, np.int32)
        while low <= high:
            size = (low + high) // 2
            if len(positions := self.datastore.positions(sequence[-size:])):
                low, longest = size + 1, positions
            else:
                high = size - 1
        return longest


def frequent(rows: store.Ids, count: int) -> list[list[int]]:
    """Return the `count` most frequent prefixes of the sorted `rows` (P, L); of equal ones, the shorter first."""
    new = np.ones(rows.shape, bool)
    new[1:] = np.logical_or.accumulate(rows[1:] != rows[:-1], axis=1)
    starts, levels = np.nonzero(new & (rows != store.END))
    counts = np.empty(len(starts), np.int64)
    for level in range(rows.shape[1]):
        all_starts = np.flatnonzero(new[:, level])
        size = dict(zip(all_starts.tolist(), np.diff(all_starts, append=len(rows)).tolist(), strict=True))
        here = levels == level
        counts[here] = [size[start] for start in starts[here].tolist()]
    best = np.lexsort((starts, levels, -counts))[:count]
    return [rows[starts[i], :levels[i] + 1].tolist() for i in best.tolist()]


@dataclass(frozen=True)
class Rest(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    span: int = knob(16, "longest suffix looked up, in tokens", low=2, high=16, sweep=(4, 8, 16))
    matches: int = knob(5000, "maximum matches used", low=1, high=1_000_000, sweep=(100, 5000))
    length: int = knob(10, "tokens used after a match", low=1, high=16, sweep=(5, 10, 16))
    choices: int = knob(64, "nodes of the tree", low=1, high=1024, sweep=(16, 32, 64))
    store: str = knob("nano", "the embedded corpus, or a file of strategies.tools.rest_datastore", file=True)

    paper: ClassVar[str] = "He et al. 2023, arXiv 2311.08252"

    def drafter(self, session: Session, request: Request) -> Retrieval:
        """Return the retrieval from the store; raises `Unsupported` when it has another vocabulary."""
        return Retrieval(store.named(self.store, self.name, session), self)
