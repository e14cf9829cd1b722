"""Suffix decoding: draft the likeliest continuations by counts, and more of them the longer the match.

SuffixDecoding, Oliaro et al. 2024 (arXiv 2411.04975). A tree counts every substring of at most `max_depth` tokens of
this text; `warm` adds one of earlier outputs (none is ever dropped). Every suffix that is in a tree drafts at most
`factor` · its length + `offset` tokens, never more than `max_spec`; a token counts while its chance, by counts, is at
least `min_prob`. The draft of the highest sum of chances wins, the longer match when equal. `shape` "chain" follows the
most frequent token, "tree" takes the likeliest nodes. Defaults are vLLM's. `temperature` and `p` set the distribution,
which is exact.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import ClassVar

from harness.decoding.accept import at
from harness.decoding.loop import Step, draft_and_verify
from harness.decoding.verified import Verified
from harness.engine.session import Session
from harness.engine.tree import EMPTY, ROOT, TokenTree
from harness.plugins.strategy import Request, knob
from strategies.drafters.suffixes import Place, SuffixTree


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
        """The tree of this text, and of earlier outputs when `warm`."""
        earlier = session.engine.learnt.setdefault(self.spec(), SuffixTree(self.max_depth)) if self.warm else None
        return Counted(self, len(request.prompt), earlier)

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield the accepted drafts and one more token at each step; the output is learnt at the end."""
        drafter = self.drafter(session, request)
        try:
            yield from draft_and_verify(session, drafter, at(self.temperature, self.rule()), request, self.logit_warp())
        finally:
            drafter.learn()

    def budget(self, match: int) -> int:
        """How many tokens a match of `match` tokens may draft."""
        return min(self.max_spec, int(self.factor * match + self.offset))


class Counted:
    """Drafts from the tree of one text and, if there is one, the tree of earlier outputs."""

    def __init__(self, knobs: SuffixDecoding, start: int, earlier: SuffixTree | None) -> None:
        self.knobs, self.start, self.earlier = knobs, start, earlier
        self.own, self._met = SuffixTree(knobs.max_depth), list[Place]()

    def draft(self, text: Sequence[int], last: Step, limit: int) -> TokenTree:
        """The best draft of at most `limit` levels; empty when no suffix was met before."""
        new = text[len(self.own.text):]
        self.own.feed(new)
        best = self.best(self.own, self.own.repeated(), limit)
        if self.earlier:
            for token in new:
                self._met = self.earlier.matches([self.earlier.root, *self._met], token)
            best = max(best, self.best(self.earlier, self._met, limit), key=lambda found: found[0])
        return best[1]

    def learn(self) -> None:
        """Add the output to the tree of earlier ones."""
        if self.earlier and len(self.own.text) > self.start:
            self.earlier.feed(self.own.text[self.start:])
            self.earlier.end()

    def best(self, tree: SuffixTree, matches: Sequence[Place], limit: int = 1 << 30) -> tuple[float, TokenTree]:
        """The sum of chances and the draft of the best of `matches`, the shortest of which comes first."""
        found = (0.0, EMPTY)
        for place in matches:
            draft = self.grown(tree, place, self.knobs.budget(place.depth), limit)
            found = draft if draft[0] >= found[0] else found
        return found

    def grown(self, tree: SuffixTree, place: Place, budget: int, limit: int) -> tuple[float, TokenTree]:
        """The sum of chances and the draft of at most `budget` tokens and `limit` levels after one match."""
        order, score, tokens, parents = count(), 0.0, list[int](), list[int]()
        heap = [(-1.0, next(order), ROOT, -1, place)]
        while heap and len(tokens) < budget:
            chance, _, parent, token, here = heappop(heap)
            if here is not place:
                parents.append(parent)
                tokens.append(token)
                score -= chance
            after = list(tree.following(here)) if here.depth - place.depth < limit else []
            if after and self.knobs.shape == "chain":
                after = [max(after, key=lambda way: way[1].times)]
            for token, child in after:
                if (p := -chance * child.times / here.times) >= self.knobs.min_prob:
                    heappush(heap, (-p, next(order), len(tokens) - 1, token, child))
        return score, TokenTree(tuple(tokens), tuple(parents))
