"""SWIFT: self-speculative decoding that searches, during generation, for sublayers that its drafts can skip.

Xia et al. 2024 (arXiv 2410.06916). `share` of the sublayers between the first and the last layer are left out. After
each step another set, drawn at random, reads the last `window` tokens that were written, in one forward; the set whose
likeliest tokens agree with them most is kept, until `enough` agree, or `patience` sets in a row were no better, or
`most` were tried. Every set whose number `bayes` divides is not the next random one but the most promising of many, by
Bayesian optimisation over those tried. At most `gamma` tokens are drafted a step, each with its runners-up beside it,
the more the less sure it is; drafting stops after a token less probable than `theta`. `temperature` and `p` set the
distribution, which chosen drafts preserve.
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

CANDIDATES = 1000                               # random sets among which the most promising one is tried
SURE = (0.95, 0.8, 0.5)                         # the authors' code: probabilities of the likeliest token …
WIDTHS = {True: (3, 5, 8, 10), False: (1, 3, 5, 10)}  # … and how many tokens are tried above each, greedy or sampling


@dataclass(frozen=True)
class Swift(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    share: float = knob(0.45, "of the sublayers between the first and the last layer, left out of drafts", low=0,
                        high=1, sweep=(0.3, 0.45, 0.5))
    gamma: int = knob(25, "maximum levels drafted per step", low=1, high=64, sweep=(6, 12, 25))
    theta: float = knob(0.8, "drafting stops after a token less probable than this", low=0, high=1, sweep=(0.6, 0.8))
    window: int = knob(50, "tokens written that a set is tried on", low=1, high=512, sweep=(25, 50))
    enough: float = knob(0.93, "agreement that ends the search", low=0, high=1)
    patience: int = knob(300, "sets without improvement that end the search", low=0, high=100000)
    most: int = knob(1000, "maximum sets tried per sequence", low=0, high=100000, sweep=(0, 1000))
    bayes: int = knob(25, "every how many sets one is proposed by the scores of those tried; 0 is never", low=0,
                      high=100000, sweep=(0, 25))

    paper: ClassVar[str] = "Xia et al. 2024, arXiv 2410.06916"

    def drafter(self, session: Session, request: Request) -> "Comb":
        """The model without some of its sublayers."""
        if self.bayes:
            proposal.prepare()
        return Comb(session, self, Search(session, self, request))


class Search:
    """Looks for the set of sublayers without which the model agrees best with what it wrote."""

    def __init__(self, session: Session, knobs: Swift, request: Request) -> None:
        self.session, self.knobs, self.request = session, knobs, request
        self.inner = range(1, len(session.engine.parts.layers) - 1)
        self.hook = spread(len(session.engine.parts.layers), knobs.share)
        self.found, self.in_vain = -1.0, 0
        self.tried, self.scores = list[list[float]](), list[float]()  # 1 for each sublayer that was left out, and 0

    def step(self, text: Sequence[int]) -> None:
        """Try one more set on `text`, all of which but the last token has been read."""
        knobs, written = self.knobs, len(text) - len(self.request.prompt)
        if (written < knobs.window or self.found >= knobs.enough or self.in_vain >= knobs.patience
                or len(self.tried) >= knobs.most):
            return
        hook = self._next() if self.tried else self.hook
        score = self.score(text, hook)
        self.tried.append([float(i in part) for part in (hook.attention, hook.mlp) for i in self.inner])
        self.scores.append(score)
        self.in_vain += 1
        if score > self.found:
            self.hook, self.found, self.in_vain = hook, score, 0

    def score(self, text: Sequence[int], hook: Skip) -> float:
        """Share of the last `window` tokens that are the likeliest ones when the tokens before them are given."""
        window = min(self.knobs.window, len(text) - 1)
        said = self.session.draft_read(text[-window - 1:-1], hook, back=window).best
        return sum(a == b for a, b in zip(said, text[-window:], strict=True)) / window

    def _next(self) -> Skip:
        """A set of the wanted size: a proposal if it is time for one, else any with equal chances."""
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
        """The sublayers of these numbers: first the attentions of the inner layers, then their MLPs."""
        sides = [set[int](), set[int]()]
        for i in chosen:
            sides[i // len(self.inner)].add(self.inner[i % len(self.inner)])
        return Skip(frozenset(sides[0]), frozenset(sides[1]))


class Comb:
    """Drafts a chain with the hook found so far, and beside each of its tokens the next likely ones."""

    def __init__(self, session: Session, knobs: Swift, search: Search) -> None:
        self.session, self.knobs, self.search = session, knobs, search

    def draft(self, text: Sequence[int], last: Step, limit: int) -> TokenTree:
        """A tree of at most `limit` levels; the level that ends it for want of confidence is part of it."""
        self.search.step(text)
        levels, newest, widths = list[list[int]](), text[-1], WIDTHS[self.knobs.temperature == 0]
        while len(levels) < min(self.knobs.gamma, limit):
            probs = torch.softmax(self.session.draft_read([newest], self.search.hook).logits[0], -1)
            best = probs.topk(min(widths[-1], len(probs)))
            (surest, *_), tokens = torch.stack([best.values.double(), best.indices.double()]).tolist()
            levels.append([int(token) for token in tokens[:widths[sum(surest <= bound for bound in SURE)]]])
            newest = levels[-1][0]
            if surest < self.knobs.theta:
                break
        return comb(levels)


def comb(levels: Sequence[Sequence[int]]) -> TokenTree:
    """Every level's tokens below the first token of the level before it."""
    tokens, parents, above = list[int](), list[int](), -1
    for level in levels:
        parents += [above] * len(level)
        above = len(tokens)
        tokens += level
    return TokenTree(tuple(tokens), tuple(parents))
