"""SWIFT: self-speculative decoding that searches, during generation, for sublayers that its drafts can skip.

Xia et al. 2024 (arXiv 2410.06916). Drafts skip `share` of the sublayers between the first and the last layer. After
each step one more random set of sublayers is scored by a forward over the last `window` tokens: the share of them that
it predicts. The best set is used. The search ends when the score reaches `enough`, after `patience` sets in a row
without improvement, or after `most` sets. Every `bayes`-th set is not random but the most promising of many, by
Bayesian optimisation. At most `gamma` levels are drafted a step, each with alternative tokens, more of them the less
confident the model is; drafting stops after a token less probable than `theta`. `temperature` and `p` set the
distribution, which is exact.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from harness.decoding.loop import Step
from harness.decoding.verified import Verified
from harness.engine.hooks import Skip
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.plugins.strategy import Request, knob
from strategies.drafters import proposal
from strategies.drafters.sublayers import left_out, spread

CANDIDATES = 1000                               # random sets from which Bayesian optimisation chooses
SURE = (0.95, 0.8, 0.5)                         # the authors' code: probabilities of the likeliest token …
WIDTHS = {True: (3, 5, 8, 10), False: (1, 3, 5, 10)}  # … and tokens drafted above each, greedy or sampling


@dataclass(frozen=True)
class Swift(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    share: float = knob(0.45, "share of the sublayers between the first and the last layer that drafts skip", low=0,
                        high=1, sweep=(0.3, 0.45, 0.5))
    gamma: int = knob(25, "maximum levels drafted per step", low=1, high=64, sweep=(6, 12, 25),
                      also="num_assistant_tokens")
    theta: float = knob(0.8, "drafting stops after a token less probable than this", low=0, high=1, sweep=(0.6, 0.8))
    window: int = knob(50, "generated tokens that score a set", low=1, high=512, sweep=(25, 50))
    enough: float = knob(0.93, "agreement that ends the search", low=0, high=1)
    patience: int = knob(300, "sets without improvement that end the search", low=0, high=100000)
    most: int = knob(1000, "maximum sets tried per sequence", low=0, high=100000, sweep=(0, 1000))
    bayes: int = knob(25, "interval of sets proposed by Bayesian optimisation; 0 is never", low=0,
                      high=100000, sweep=(0, 25))

    paper: ClassVar[str] = "Xia et al. 2024, arXiv 2410.06916"

    def drafter(self, session: Session, request: Request) -> "Comb":
        """Return the model without some of its sublayers."""
        if self.bayes:
            proposal.prepare()
        return Comb(session, self, Search(session, self, request))


class Search:
    """Searches for the set of sublayers to skip whose predictions agree best with the output so far."""

    def __init__(self, session: Session, knobs: Swift, request: Request) -> None:
        self.session, self.knobs, self.request = session, knobs, request
        self.inner = range(1, len(session.engine.parts.layers) - 1)
        self.hook = spread(len(session.engine.parts.layers), knobs.share)
        self.best_score, self.without_gain = -1.0, 0
        self.tried, self.scores = list[list[float]](), list[float]()  # 1 for each skipped sublayer, else 0

    def step(self, sequence: Sequence[int]) -> None:
        """Score one more set on `sequence`, all of which but the last token is in the cache."""
        knobs, generated = self.knobs, len(sequence) - self.request.start
        if (generated < knobs.window or self.best_score >= knobs.enough or self.without_gain >= knobs.patience
                or len(self.tried) >= knobs.most):
            return
        hook = self._next() if self.tried else self.hook
        score = self.score(sequence, hook)
        self.tried.append([float(i in part) for part in (hook.attention, hook.mlp) for i in self.inner])
        self.scores.append(score)
        self.without_gain += 1
        if score > self.best_score:
            self.hook, self.best_score, self.without_gain = hook, score, 0

    def score(self, sequence: Sequence[int], hook: Skip) -> float:
        """Return the share of the last `window` tokens that the model predicts with `hook`."""
        window = min(self.knobs.window, len(sequence) - 1)
        predicted = self.session.draft_read(sequence[-window - 1:-1], hook, back=window).best
        return sum(a == b for a, b in zip(predicted, sequence[-window:], strict=True)) / window

    def _next(self) -> Skip:
        """Return the next set: a proposal of Bayesian optimisation when it is due, else a uniform sample."""
        size, members = left_out(len(self.inner) + 2, self.knobs.share), 2 * len(self.inner)
        stream, bayes = self.request.stream, self.knobs.bayes
        if bayes and not (len(self.tried) + 1) % bayes and 0 < size < members:
            sets = proposal.drawn(CANDIDATES, members, size, stream)
            return self._plan(sets[proposal.best(sets, np.array(self.tried), np.array(self.scores))].nonzero()[0])
        weights, chosen = torch.ones(members), list[int]()
        for _ in range(size):
            chosen.append(stream.choose(weights))
            weights[chosen[-1]] = 0
        return self._plan(chosen)

    def _plan(self, chosen: Iterable[int]) -> Skip:
        """Return the sublayers of the given numbers: first the attentions of the inner layers, then their MLPs."""
        sides = [set[int](), set[int]()]
        for i in chosen:
            sides[i // len(self.inner)].add(self.inner[i % len(self.inner)])
        return Skip(frozenset(sides[0]), frozenset(sides[1]))


class Comb:
    """Drafts a chain with the best hook so far, and for each of its tokens the next likely alternatives."""

    def __init__(self, session: Session, knobs: Swift, search: Search) -> None:
        self.session, self.knobs, self.search = session, knobs, search

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a tree of at most `limit` levels; the level with too low confidence is the last one."""
        self.search.step(sequence)
        levels, newest, widths = list[list[int]](), sequence[-1], WIDTHS[self.knobs.temperature == 0]
        while len(levels) < min(self.knobs.gamma, limit):
            probs = torch.softmax(self.session.draft_read([newest], self.search.hook).logits[0], -1)
            best = probs.topk(min(widths[-1], len(probs)))
            (confidence, *_), tokens = torch.stack([best.values.double(), best.indices.double()]).tolist()
            levels.append([int(token) for token in tokens[:widths[sum(confidence <= bound for bound in SURE)]]])
            newest = levels[-1][0]
            if confidence < self.knobs.theta:
                break
        return comb(levels)


def comb(levels: Sequence[Sequence[int]]) -> TokenTree:
    """Build a tree with every level's tokens below the first token of the level before."""
    tokens, parents, above = list[int](), list[int](), -1
    for level in levels:
        parents += [above] * len(level)
        above = len(tokens)
        tokens += level
    return TokenTree(tuple(tokens), tuple(parents))
