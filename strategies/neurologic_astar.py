"""NeuroLogic A*esque decoding: NeuroLogic with a lookahead estimate of how likely missing phrases soon follow.

Lu et al. 2022 (arXiv 2112.08726). Every candidate is continued by `lookahead` tokens; its rank gains `alpha` times the
highest mean log p that a missing phrase would have at one of the next places (a phrase already begun: at once). The
usual form of a word, its first phrase, is looked for. `rollout` "greedy" continues by the likeliest tokens, "beam" by
`rollouts` beams, "sample" by as many samples; the best of them counts. The paper's soft rollout, which feeds mixtures
of embeddings, is not offered. Scores are stored without the heuristic. It costs `lookahead` more forwards a token.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from harness.decoding.constrained import at
from harness.decoding.constraints import Constraints, Phrase
from harness.decoding.search import Hypothesis
from harness.engine.session import Session
from harness.plugins.strategy import Request, knob
from strategies.neurologic import Groups, NeuroLogic


@dataclass(frozen=True)
class NeuroLogicAstar(NeuroLogic):
    """`alpha=0` is `neurologic`."""

    alpha: float = knob(0.25, "weight of the lookahead", low=0, high=100, sweep=(0.0, 0.05, 0.175, 0.25, 0.45))
    lookahead: int = knob(5, "tokens to look ahead", low=1, high=1024, sweep=(1, 3, 5, 10))
    rollout: str = knob("greedy", "how a candidate is continued", choices=("greedy", "beam", "sample"),
                        sweep=("greedy", "beam", "sample"))
    rollouts: int = knob(4, "beams or samples of a candidate", low=1, high=64, sweep=(2, 4, 8))

    paper: ClassVar[str] = "Lu et al. 2022, arXiv 2112.08726"

    def front(self, session: Session, request: Request, wanted: Constraints) -> "Looking":
        """The search state for one prompt."""
        return Looking(self.width, self.rule(request), self.stopping(), request, wanted=wanted,
                       rules=self, far=self, session=session)


class Branch(NamedTuple):
    """A continuation of a candidate: whose it is, its newest node, and its log p (of a sample, nothing)."""

    owner: int
    node: int
    score: float = 0.0


class Chain(NamedTuple):
    """A phrase that is put below a branch token by token: log p of its first `done` tokens, all but the last read."""

    owner: int
    node: int
    phrase: Phrase
    total: float
    done: int = 1


@dataclass
class Looking(Groups):
    """Groups whose candidates are continued before they are ranked."""

    far: NeuroLogicAstar = NeuroLogicAstar()
    session: Session | None = None

    def ahead(self, kept: list[Hypothesis]) -> list[float]:
        """`alpha` times the best mean log p of a missing phrase; nothing where none is missing or fits."""
        room = self.request.max_new_tokens - len(kept[0].tokens)
        missing = [place for place, child in enumerate(kept) if not child.state.finished]
        more = [0.0] * len(kept)
        if self.far.alpha and room and missing:
            for place, value in zip(missing, self.looked([kept[place] for place in missing], room), strict=True):
                more[place] = self.far.alpha * value if value > -math.inf else 0.0
        return more

    def looked(self, kept: list[Hypothesis], room: int) -> list[float]:
        """The best mean log p for each of `kept`; −∞ where no phrase fits into the `room` tokens left."""
        found = [-math.inf] * len(kept)
        branches = [Branch(owner, child.node) for owner, child in enumerate(kept)]
        steps = [(owner, child.tokens[-1], 0.0) for owner, child in enumerate(kept)]
        chains, offset, end = list[Chain](), 0, min(self.far.lookahead, room)
        while steps or chains:
            branches, said, chains = self.read(branches, steps, chains)
            chains += self.begun(kept, branches, said, offset, room)
            for one in chains:
                if one.done == len(one.phrase):
                    found[one.owner] = max(found[one.owner], one.total / one.done)
            chains = [one for one in chains if one.done < len(one.phrase)]
            offset += 1
            steps = self.steps(branches, said, first=offset == 1) if offset < end else []
        return found

    def read(self, branches: list[Branch], steps: list[tuple[int, int, float]], chains: list[Chain]
             ) -> tuple[list[Branch], Tensor, list[Chain]]:
        """One forward: a token more of branches (branch, token, score) and of chains, and what is said (n, V) next."""
        assert self.session is not None
        first = self.session.nodes
        said = self.session.grow([token for _, token, _ in steps] + [one.phrase[one.done - 1] for one in chains],
                                 [branches[i].node for i, _, _ in steps] + [one.node for one in chains])
        log_p = said.logits[1:].log_softmax(-1)
        grown = [Branch(branches[i].owner, first + n, score) for n, (i, _, score) in enumerate(steps)]
        values = at(log_p, [(n, one.phrase[one.done]) for n, one in enumerate(chains, len(steps))])
        return grown, log_p[:len(steps)], [
            one._replace(node=first + n, total=one.total + value, done=one.done + 1)
            for n, (one, value) in enumerate(zip(chains, values, strict=True), len(steps))]

    def begun(self, kept: list[Hypothesis], branches: list[Branch], said: Tensor, offset: int, room: int
              ) -> list[Chain]:
        """What is missing, put after each branch where there is room: usual forms, and at once the rest of open ones.

        `said` (n, V) is the model's prediction after the branches.
        """
        missing = [[clause[0] for clause in child.state.unmet()] for child in kept]
        for phrases, child in zip(missing, kept, strict=True) if not offset else ():
            phrases += [place.phrase[place.done:] for place in child.state.open]
        places = [(row, one, phrase) for row, one in enumerate(branches)
                  for phrase in missing[one.owner] if offset + len(phrase) <= room]
        values = at(said, [(row, phrase[0]) for row, _, phrase in places])
        return [Chain(one.owner, one.node, phrase, value)
                for (_, one, phrase), value in zip(places, values, strict=True)]

    def steps(self, branches: list[Branch], said: Tensor, first: bool) -> list[tuple[int, int, float]]:
        """Branch, token and score of what is read next; branches that end are left out."""
        steps, taken = list[tuple[int, int, float]](), Counter[int]()
        if self.far.rollout == "sample":
            draws = self.far.rollouts if first else 1
            chances = said.exp()
            steps = [(i, self.request.stream.choose(chances[i]), 0.0) for i in range(len(said)) for _ in range(draws)]
        else:
            width = 1 if self.far.rollout == "greedy" else self.far.rollouts
            values, tokens = said.topk(min(width, said.shape[1])) if branches else (said, said)
            every = [(i, token, one.score + value) for i, one in enumerate(branches)
                     for token, value in zip(tokens[i].tolist(), values[i].tolist(), strict=True)]
            for step in sorted(every, key=lambda step: -step[2]):
                owner = branches[step[0]].owner
                if taken[owner] < width:
                    taken[owner] += 1
                    steps.append(step)
        return [step for step in steps if step[1] not in self.request.eos]
