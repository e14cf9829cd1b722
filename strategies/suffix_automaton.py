"""Suffix automaton: draft what followed the longest suffix of the text that stands in it earlier.

SAM-Decoding, Hu et al. 2024 (arXiv 2411.10666), with the automaton of the text itself; the one of a corpus is left
out. A match of `len_threshold` tokens or more drafts the `n_predicts` tokens after its first place; when too few
follow there, a shorter match (still of that length) may have a fuller one. Below the threshold `fallback` drafts:
"none" nothing, "token_recycling" its tree of 80 nodes. `temperature` and `p` choose the law, which is kept exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.loop import Step
from harness.decoding.session import Session
from harness.decoding.tree import EMPTY, TokenTree
from harness.decoding.verified import Verified
from harness.strategy import Request, knob
from strategies.drafters.automaton import SuffixAutomaton
from strategies.drafters.recycled import Recycler


class Continuation:
    """Drafts the tokens after the first place of the longest repeated suffix, else leaves it to `other`."""

    def __init__(self, length: int, threshold: int, other: Recycler | None) -> None:
        self.length, self.threshold, self.other = length, threshold, other
        self.automaton = SuffixAutomaton()

    def draft(self, text: Sequence[int], last: Step, limit: int) -> TokenTree:
        """A chain of at most `limit` tokens, or the other drafter's tree."""
        if found := self.continuation(text):
            if self.other:
                self.other.learn(text, last)
            return TokenTree.chain(found[:limit])
        return self.other.draft(text, last, limit) if self.other else EMPTY

    def continuation(self, text: Sequence[int]) -> Sequence[int]:
        """What followed the longest long enough match that is followed by `length` tokens, else by the most."""
        known = self.automaton
        known.feed(text[known.size:])
        state, best = known.repeated(), len(text)
        while state and known.longest[state] >= self.threshold:
            best = min(best, known.first[state] + 1)
            if best + self.length <= len(text):
                break
            state = known.link[state]
        return text[best:best + self.length]


@dataclass(frozen=True)
class SuffixAutomatonDecoding(Verified):
    """Lossless at temperature 0; above it the output law is that of `top_p` with the same knobs."""

    n_predicts: int = knob(40, "tokens drafted after a match", low=1, high=256, sweep=(5, 10, 20, 40, 70))
    len_threshold: int = knob(5, "tokens that a match must have", low=1, high=64, sweep=(1, 2, 3, 5, 8))
    fallback: str = knob("none", "what drafts when no match is long enough", choices=("none", "token_recycling"),
                         sweep=("none", "token_recycling"))

    paper: ClassVar[str] = "Hu et al. 2024, arXiv 2411.10666"

    def drafter(self, session: Session, request: Request) -> Continuation:
        """The automaton of this text."""
        other = Recycler(80, 8, {}) if self.fallback == "token_recycling" else None
        return Continuation(self.n_predicts, self.len_threshold, other)
