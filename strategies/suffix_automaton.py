"""Suffix automaton: draft what followed the longest suffix of the sequence that occurs earlier in it.

SAM-Decoding, Hu et al. 2024 (arXiv 2411.10666). A match of `len_threshold` tokens or more drafts the `n_predicts`
tokens after its first occurrence; when fewer follow there, a shorter match (above the threshold) may give more. With a
`store`, as in `rest`, the sequence is looked up in those texts too: their match counts `len_bias` tokens less, and if
it is still the longer one, the tokens after its first occurrence are drafted. Below the threshold `fallback` drafts:
"none" nothing, "token_recycling" its tree of 80 nodes. `temperature` and `p` set the distribution, which is exact.
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
from strategies.drafters.automaton import Cursor, SuffixAutomaton
from strategies.drafters.recycled import Recycler


class Corpus:
    """Looks up the end of a sequence in a store; a match counts `bias` tokens less than its length."""

    def __init__(self, known: store.Store, bias: int) -> None:
        self.known, self.bias, self.cursor = known, bias, Cursor(known.automaton)

    def match(self, sequence: Sequence[int]) -> int:
        """Return the counted length of the longest suffix of `sequence` in the store; `sequence` may only grow."""
        self.cursor.follow(sequence[self.cursor.size:])
        return self.cursor.length - self.bias

    def continuation(self, length: int) -> list[int]:
        """Return at most `length` tokens after the first occurrence of the match, none past the end of its sequence."""
        start = self.cursor.known.first[self.cursor.state] + 1
        row = self.known.following(np.array([start], np.int32), length)[0]
        return [int(token) for token in row[row != store.END]]


class Continuation:
    """Drafts the tokens after the first occurrence of the longest match; without a match, `other` drafts.

    The `source` that an encoder reads counts as the beginning of the sequence.
    """

    def __init__(self, length: int, threshold: int, other: Recycler | None, corpus: Corpus | None = None,
                 source: Sequence[int] = ()) -> None:
        self.length, self.threshold, self.other, self.corpus = length, threshold, other, corpus
        self.source = list(source)
        self.likeliest = other.likeliest if other else 0
        self.automaton = SuffixAutomaton()

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a chain of at most `limit` tokens, or the other drafter's tree."""
        if tokens := self.continuation([*self.source, *sequence] if self.source else sequence):
            if self.other:
                self.other.learn(sequence, last)
            return TokenTree.chain(tokens[:limit])
        return self.other.draft(sequence, last, limit) if self.other else EMPTY

    def continuation(self, sequence: Sequence[int]) -> Sequence[int]:
        """Return the tokens after the longest match; in `sequence`, after one with `length` tokens if possible."""
        known = self.automaton
        known.feed(sequence[known.size:])
        state, best = known.repeated(), len(sequence)
        if (self.corpus and self.corpus.match(sequence) >= max(self.threshold, known.longest[state] + 1)
                and (tokens := self.corpus.continuation(self.length))):
            return tokens
        while state and known.longest[state] >= self.threshold:
            best = min(best, known.first[state] + 1)
            if best + self.length <= len(sequence):
                break
            state = known.link[state]
        return sequence[best:best + self.length]


@dataclass(frozen=True)
class SuffixAutomatonDecoding(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    n_predicts: int = knob(40, "tokens drafted after a match", low=1, high=256, sweep=(5, 10, 20, 40, 70))
    len_threshold: int = knob(5, "minimum length of a match, in tokens", low=1, high=64, sweep=(1, 2, 3, 5, 8))
    fallback: str = knob("none", "what drafts when no match is long enough", choices=("none", "token_recycling"),
                         sweep=("none", "token_recycling"))
    store: str = knob("none", "further texts to look up: \"none\", \"nano\" or a file, as in rest", file=True)
    len_bias: int = knob(5, "tokens subtracted from the length of a match in the store", low=0, high=64)

    paper: ClassVar[str] = "Hu et al. 2024, arXiv 2411.10666"

    def drafter(self, session: Session, request: Request) -> Continuation:
        """Return the drafter over this sequence and the store, if any; raises `Unsupported` for another vocabulary."""
        other = Recycler(80, 8, {}) if self.fallback == "token_recycling" else None
        corpus = None if self.store == "none" else Corpus(store.named(self.store, self.name, session), self.len_bias)
        return Continuation(self.n_predicts, self.len_threshold, other, corpus, session.source)
