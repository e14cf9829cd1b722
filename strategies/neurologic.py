"""NeuroLogic decoding: a beam shared between groups of hypotheses that have met the same set of clauses.

Lu et al. 2021 (arXiv 2010.12884). A clause wants one of several phrases. Candidates are the best children of all, the
tokens that begin or go on with a wanted phrase, and each hypothesis's best tokens; all but the first kind must be
among the `prune` best scores. Those that have met more than `tolerance` clauses fewer than the best are dropped. The
rest are grouped by which clauses they have met, and the beam takes the best of each group, then the second of each.
Inside a group log p / length counts; `beta` adds to it for the open phrase of which the largest share is written:
`variant` "paper" adds beta times that share, "official" takes beta times its log off, which favours phrases that have
only begun. A text that has met all may end when EOS is among its `early_stop` x `width` best tokens.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.decoding.constrained import Constrained, ConstrainedSearch, at
from harness.decoding.constraints import Constraints, Matches
from harness.decoding.search import Hypothesis, best
from harness.engine.session import Session
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class NeuroLogic(ConstrainedSearch):
    """Without clauses it is `beam` of the same width."""

    width: int = knob(20, "beams", low=1, high=256, sweep=(5, 10, 20))
    length_penalty: float = knob(0.2, "exponent of the length rule; 0 does not divide", low=-5, high=5,
                                 sweep=(0.1, 0.2, 0.6, 1.0))
    prune: int = knob(50, "how many of the best scores a child must be below", low=1, sweep=(50, 500, 500000))
    tolerance: int = knob(2, "how many clauses fewer than the best a text may have met", low=0, sweep=(0, 1, 2, 3))
    beta: float = knob(0.0, "reward for an open phrase", low=0, high=100, sweep=(0.0, 0.25, 0.5))
    early_stop: float = knob(1.0, "how far down EOS may be, in widths", low=0, high=100)
    variant: str = knob("paper", "whose reward", choices=("paper", "official"))

    paper: ClassVar[str] = "Lu et al. 2021, arXiv 2010.12884"

    def front(self, session: Session, request: Request, wanted: Constraints) -> "Groups":
        """The search state for one prompt."""
        return Groups(self.width, self.rule(request), self.stopping(), request, wanted=wanted,
                      rules=self)


@dataclass
class Groups(Constrained):
    """A beam in groups by the set of clauses met."""

    rules: NeuroLogic = NeuroLogic()

    def start(self) -> Matches:
        """The state before any constraint is met."""
        return Matches(self.wanted)

    def proposed(self, scores: Tensor) -> Iterator[tuple[int, int, Matches]]:
        """The best children of all; each hypothesis's wanted and best tokens among the best scores."""
        flat, size = scores.flatten(), scores.shape[1]
        least = threshold(flat, self.rules.prune)
        places = [(place // size, place % size) for place in best(flat, self.width).tolist()]
        wanted = [(row, token) for row, one in enumerate(self.live) for token in sorted(one.state.allowed())]
        places += [place for place, score in zip(wanted, at(scores, wanted), strict=True) if score >= least]
        values, tokens = scores.topk(min(self.width, size), dim=1)
        for row, column in (values >= least).nonzero().tolist():
            places.append((row, int(tokens[row, column])))
        for row, token in dict.fromkeys(places):
            yield row, token, self.live[row].state.advance(token)

    def ended(self, scores: Tensor, log_p: Tensor) -> list[Hypothesis]:
        """The ends of those that have met all, where they are likely enough."""
        least = threshold(scores.flatten(), self.rules.prune)
        found = []
        for row, parent in enumerate(self.live):
            if parent.state.finished:
                tokens = scores[row].topk(min(int(self.rules.early_stop * self.width), scores.shape[1])).indices
                for token in tokens[scores[row, tokens] >= least].tolist():
                    child = self.child(row, token, float(scores[row, token]), float(log_p[row, token]))
                    found += [child] if self.request.ends(child.tokens) else []
        return found

    def select(self, found: list[Hypothesis]) -> list[int]:
        """The best of each group, then the second of each, until the beam is full."""
        most = max(len(child.state.met) for child in found)
        kept = [place for place, child in enumerate(found) if len(child.state.met) >= most - self.rules.tolerance]
        ahead = self.ahead([found[place] for place in kept])
        ranks = {place: self.rank(found[place]) + more for place, more in zip(kept, ahead, strict=True)}
        groups: dict[frozenset[int], list[int]] = {}
        turns = list[tuple[int, float, int]]()
        for place in sorted(kept, key=lambda place: (-ranks[place], place)):
            group = groups.setdefault(found[place].state.met, [])
            turns.append((len(group), -ranks[place], place))
            group.append(place)
        return [place for _, _, place in sorted(turns)[:self.width]]

    def rank(self, child: Hypothesis) -> float:
        """Log p a token, and the reward for an open phrase."""
        rank, share = child.score / len(child.tokens), child.state.progress
        if not share:
            return rank
        return rank + self.rules.beta * (share if self.rules.variant == "paper" else -math.log(share))

    def ahead(self, kept: list[Hypothesis]) -> list[float]:
        """What is added to the rank of each for what may come after it; nothing here."""
        return [0.0] * len(kept)


def threshold(scores: Tensor, count: int) -> float:
    """The lowest of `scores` (N,) whose rank, equal ones sharing theirs, is below `count`; +∞ where none is.

    −∞ is never among them: it is the score of what is banned.
    """
    if count <= 1:
        return math.inf
    size = min(count, len(scores))
    while True:
        values = torch.unique(scores.topk(size).values)  # rising
        if len(values) >= count - 1:
            return max(float(values[1 - count]), torch.finfo(scores.dtype).min)
        if size == len(scores):
            return torch.finfo(scores.dtype).min
        size = min(2 * size, len(scores))
