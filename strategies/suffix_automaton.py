"""Suffix automaton: draft what followed the longest suffix of the text that occurs earlier in it.

SAM-Decoding, Hu et al. 2024 (arXiv 2411.10666). A match of `len_threshold` tokens or more drafts the `n_predicts`
tokens after its first place; when too few follow there, a shorter match (still of that length) may have a fuller one.
With a `store`, as that of `rest`, the end of the text is looked up in those texts too: their match counts `len_bias`
tokens less, and when it is still the longer one, what follows its first place is drafted. Below the threshold
`fallback` drafts: "none" nothing, "token_recycling" its tree of 80 nodes. `temperature` and `p` set the distribution,
which is exact.
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
    """What follows the end of a text in a store; a match counts `bias` tokens less than it has."""

    def __init__(self, known: store.Store, bias: int) -> None:
        self.known, self.bias, self.cursor = known, bias, Cursor(known.automaton)

    def match(self, text: Sequence[int]) -> int:
        """How much the longest end of `text` in the store counts; at each call the text may only have grown."""
        self.cursor.follow(text[self.cursor.size:])
        return self.cursor.length - self.bias

    def continuation(self, length: int) -> list[int]:
        """At most `length` tokens after the first place of the match, none past the end of its text."""
        place = self.cursor.known.first[self.cursor.state] + 1
        row = self.known.following(np.array([place], np.int32), length)[0]
        return [int(token) for token in row[row != store.END]]


class Continuation:
    """Drafts the tokens after the first place of the longest match, else leaves it to `other`."""

    def __init__(self, length: int, threshold: int, other: Recycler | None, corpus: Corpus | None = None) -> None:
        self.length, self.threshold, self.other, self.corpus = length, threshold, other, corpus
        self.automaton = SuffixAutomaton()

    def draft(self, text: Sequence[int], last: Step, limit: int) -> TokenTree:
        """A chain of at most `limit` tokens, or the other drafter's tree."""
        if found := self.continuation(text):
            if self.other:
                self.other.learn(text, last)
            return TokenTree.chain(found[:limit])
        return self.other.draft(text, last, limit) if self.other else EMPTY

    def continuation(self, text: Sequence[int]) -> Sequence[int]:
        """What followed the longest long enough match; in the text, one that is followed by `length` tokens if any."""
        known = self.automaton
        known.feed(text[known.size:])
        state, best = known.repeated(), len(text)
        if (self.corpus and self.corpus.match(text) >= max(self.threshold, known.longest[state] + 1)
                and (found := self.corpus.continuation(self.length))):
            return found
        while state and known.longest[state] >= self.threshold:
            best = min(best, known.first[state] + 1)
            if best + self.length <= len(text):
                break
            state = known.link[state]
        return text[best:best + self.length]


@dataclass(frozen=True)
class SuffixAutomatonDecoding(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    n_predicts: int = knob(40, "tokens drafted after a match", low=1, high=256, sweep=(5, 10, 20, 40, 70))
    len_threshold: int = knob(5, "tokens that a match must have", low=1, high=64, sweep=(1, 2, 3, 5, 8))
    fallback: str = knob("none", "what drafts when no match is long enough", choices=("none", "token_recycling"),
                         sweep=("none", "token_recycling"))
    store: str = knob("none", "texts looked at besides: \"none\", \"nano\" or a file, as in rest", file=True)
    len_bias: int = knob(5, "tokens that a match in the store counts less", low=0, high=64)

    paper: ClassVar[str] = "Hu et al. 2024, arXiv 2411.10666"

    def drafter(self, session: Session, request: Request) -> Continuation:
        """The automaton of this text, and of the store if any; raises `Unsupported` for one of another vocabulary."""
        other = Recycler(80, 8, {}) if self.fallback == "token_recycling" else None
        corpus = None if self.store == "none" else Corpus(store.named(self.store, self.name, session), self.len_bias)
        return Continuation(self.n_predicts, self.len_threshold, other, corpus)
