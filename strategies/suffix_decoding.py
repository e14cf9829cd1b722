"""Suffix decoding: draft the most frequent continuations, and more tokens after a longer match.

SuffixDecoding, Oliaro et al. 2024 (arXiv 2411.04975). A tree counts every substring of at most `max_depth` tokens of
this sequence; `warm` adds one of earlier outputs (none is ever dropped). Every suffix that is in a tree drafts at most
`factor` · its length + `offset` tokens, never more than `max_spec`; each must have a path probability, by counts, of at
least `min_prob`. The draft with the highest sum of probabilities wins; ties go to the longer match. `shape` "chain"
follows the most frequent token, "tree" takes the likeliest nodes. Defaults are vLLM's. `temperature` and `p` set the
distribution, which is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import ClassVar

from harness.decoding.loop import Step
from harness.decoding.verified import Verified
from harness.engine.session import Session
from harness.engine.tree import EMPTY, ROOT, TokenTree
from harness.plugins.strategy import Request, knob
from strategies.drafters.suffixes import Substring, SuffixTree


@dataclass(frozen=True)
class SuffixDecoding(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    max_depth: int = knob(24, "longest substring counted, in tokens", low=2, high=256, sweep=(8, 16, 24, 64))
    max_spec: int = knob(24, "maximum tokens drafted per step", low=1, high=256, sweep=(8, 24, 64))
    factor: float = knob(1.0, "tokens drafted for each token of the match", low=0, high=64, sweep=(1.0, 2.0, 4.0))
    offset: float = knob(0.0, "tokens drafted on top of that", low=-64, high=64, sweep=(0.0, 2.0))
    min_prob: float = knob(0.1, "minimum probability of a drafted token", low=0, high=1, sweep=(0.0, 0.1, 0.3))
    shape: str = knob("chain", "what is drafted", choices=("chain", "tree"), sweep=("chain", "tree"))
    warm: bool = knob(False, "keep statistics of earlier prompts", sweep=(False, True))

    paper: ClassVar[str] = "Oliaro et al. 2024, arXiv 2411.04975"
    stateful: ClassVar[bool] = True

    def drafter(self, session: Session, request: Request) -> "Counted":
        """Return the drafter over the tree of this sequence, and of earlier outputs when `warm`."""
        earlier = session.engine.learnt.setdefault(self.spec(), SuffixTree(self.max_depth)) if self.warm else None
        return Counted(self, len(request.prompt), earlier, session.source)

    def budget(self, match: int) -> int:
        """Return the maximum number of tokens drafted after a match of `match` tokens."""
        return min(self.max_spec, int(self.factor * match + self.offset))


class Counted:
    """Drafts from the tree of one sequence and, if there is one, the tree of earlier outputs.

    The answer begins at index `start`; the `source` that an encoder reads counts as the beginning of the sequence.
    """

    def __init__(self, knobs: SuffixDecoding, start: int, earlier: SuffixTree | None,
                 source: Sequence[int] = ()) -> None:
        self.knobs, self.start, self.earlier, self.source = knobs, len(source) + start, earlier, list(source)
        self.own, self._matches = SuffixTree(knobs.max_depth), list[Substring]()

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Return the best draft of at most `limit` levels; empty when no suffix occurred before."""
        known = len(self.own.sequence)
        new = sequence[known - len(self.source):] if known else [*self.source, *sequence]
        self.own.feed(new)
        best = self.best(self.own, self.own.repeated(), limit)
        if self.earlier:
            for token in new:
                self._matches = self.earlier.matches([self.earlier.root, *self._matches], token)
            best = max(best, self.best(self.earlier, self._matches, limit), key=lambda draft: draft[0])
        return best[1]

    def end(self) -> None:
        """Add the output to the tree of earlier ones."""
        if self.earlier and len(self.own.sequence) > self.start:
            self.earlier.feed(self.own.sequence[self.start:])
            self.earlier.end()

    def best(self, tree: SuffixTree, matches: Sequence[Substring], limit: int = 1 << 30) -> tuple[float, TokenTree]:
        """Return the sum of probabilities and the draft of the best of `matches`, which are sorted by length."""
        best = (0.0, EMPTY)
        for match in matches:
            draft = self.grown(tree, match, self.knobs.budget(match.depth), limit)
            best = draft if draft[0] >= best[0] else best
        return best

    def grown(self, tree: SuffixTree, match: Substring, budget: int, limit: int) -> tuple[float, TokenTree]:
        """Return the sum of probabilities and the draft of at most `budget` tokens and `limit` levels after a match."""
        order, score, tokens, parents = count(), 0.0, list[int](), list[int]()
        heap = [(-1.0, next(order), ROOT, -1, match)]
        while heap and len(tokens) < budget:
            chance, _, parent, token, here = heappop(heap)
            if here is not match:
                parents.append(parent)
                tokens.append(token)
                score -= chance
            after = list(tree.following(here)) if here.depth - match.depth < limit else []
            if after and self.knobs.shape == "chain":
                after = [max(after, key=lambda successor: successor[1].times)]
            for token, child in after:
                if (p := -chance * child.times / here.times) >= self.knobs.min_prob:
                    heappush(heap, (-p, next(order), len(tokens) - 1, token, child))
        return score, TokenTree(tuple(tokens), tuple(parents))
