"""NeuroLogic decoding: a beam shared between groups of hypotheses that have met the same set of clauses.

Lu et al. 2021 (arXiv 2010.12884). A clause requires one of several phrases. Candidates are the best children of all,
the tokens that begin or continue a required phrase, and each hypothesis's best tokens; all but the first kind must be
among the `prune` best scores. A candidate is dropped if it meets more than `tolerance` clauses fewer than the best. The
others are grouped by the set of clauses met, and the beam takes the best of each group, then the second of each. Inside
a group the rank is log p / length plus a reward for the open phrase with the largest share generated: `variant` "paper"
adds `beta` times that share, "official" subtracts `beta` times its log, which favours phrases that have just begun. A
hypothesis that meets all clauses may end when EOS is among its `early_stop` x `width` best tokens.
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

    width: int = knob(20, "beams", low=1, high=256, sweep=(5, 10, 20), also="num_beams")
    length_penalty: float = knob(0.2, "exponent of the length rule; 0 does not divide", low=-5, high=5,
                                 sweep=(0.1, 0.2, 0.6, 1.0))
    prune: int = knob(50, "a child's rank among all scores must be below this", low=1, sweep=(50, 500, 500000))
    tolerance: int = knob(2, "clauses that a hypothesis may lag behind the best", low=0, sweep=(0, 1, 2, 3))
    beta: float = knob(0.0, "reward for an open phrase", low=0, high=100, sweep=(0.0, 0.25, 0.5))
    early_stop: float = knob(1.0, "rank up to which EOS may end a hypothesis, in widths", low=0, high=100)
    variant: str = knob("paper", "whose reward", choices=("paper", "official"))

    paper: ClassVar[str] = "Lu et al. 2021, arXiv 2010.12884"

    def front(self, session: Session, request: Request, wanted: Constraints) -> "Groups":
        """Return the search state for one prompt."""
        return Groups(self.width, self.rule(request), self.stopping(), request, wanted=wanted,
                      rules=self)


@dataclass
class Groups(Constrained):
    """A beam in groups by the set of clauses met."""

    rules: NeuroLogic = NeuroLogic()

    def start(self) -> Matches:
        """Return the state before any constraint is met."""
        return Matches(self.wanted)

    def proposed(self, scores: Tensor) -> Iterator[tuple[int, int, Matches]]:
        """Yield the best children of all, and each hypothesis's required and best tokens among the best scores."""
        flat, size = scores.flatten(), scores.shape[1]
        least = threshold(flat, self.rules.prune)
        children = [(index // size, index % size) for index in best(flat, self.width).tolist()]
        required = [(row, token) for row, h in enumerate(self.live) for token in sorted(h.state.allowed())]
        children += [child for child, score in zip(required, at(scores, required), strict=True) if score >= least]
        values, tokens = scores.topk(min(self.width, size), dim=1)
        for row, column in (values >= least).nonzero().tolist():
            children.append((row, int(tokens[row, column])))
        for row, token in dict.fromkeys(children):
            yield row, token, self.live[row].state.advance(token)

    def ended(self, scores: Tensor, log_p: Tensor) -> list[Hypothesis]:
        """Return the likely enough ends of hypotheses that meet all clauses."""
        least = threshold(scores.flatten(), self.rules.prune)
        finished = []
        for row, parent in enumerate(self.live):
            if parent.state.finished:
                tokens = scores[row].topk(min(int(self.rules.early_stop * self.width), scores.shape[1])).indices
                for token in tokens[scores[row, tokens] >= least].tolist():
                    child = self.child(row, token, float(scores[row, token]), float(log_p[row, token]))
                    finished += [child] if self.request.ends(child.tokens) else []
        return finished

    def select(self, candidates: list[Hypothesis]) -> list[int]:
        """Return the indices of the best of each group, then the second of each, until the beam is full."""
        least = max(len(child.state.met) for child in candidates) - self.rules.tolerance
        kept = [index for index, child in enumerate(candidates) if len(child.state.met) >= least]
        ahead = self.ahead([candidates[index] for index in kept])
        ranks = {index: self.rank(candidates[index]) + more for index, more in zip(kept, ahead, strict=True)}
        groups: dict[frozenset[int], list[int]] = {}
        turns = list[tuple[int, float, int]]()
        for index in sorted(kept, key=lambda index: (-ranks[index], index)):
            group = groups.setdefault(candidates[index].state.met, [])
            turns.append((len(group), -ranks[index], index))
            group.append(index)
        return [index for _, _, index in sorted(turns)[:self.width]]

    def rank(self, child: Hypothesis) -> float:
        """Compute log p a token plus the reward for an open phrase."""
        rank, share = child.score / len(child.tokens), child.state.progress
        if not share:
            return rank
        return rank + self.rules.beta * (share if self.rules.variant == "paper" else -math.log(share))

    def ahead(self, kept: list[Hypothesis]) -> list[float]:
        """Return the lookahead bonus of each candidate's rank; zeros here."""
        return [0.0] * len(kept)


def threshold(scores: Tensor, count: int) -> float:
    """Return the lowest of `scores` (N,) with a rank below `count`; equal scores share a rank; +∞ if there is none.

    −∞, the score of banned tokens, is never returned.
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
