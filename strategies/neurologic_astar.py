"""NeuroLogic A*esque decoding: NeuroLogic with a lookahead estimate of the probability of missing phrases.

Lu et al. 2022 (arXiv 2112.08726). Every candidate is continued by `lookahead` tokens; its rank gains `alpha` times the
highest mean log p of a missing phrase at one of the next positions (a phrase already begun: at the first). Only the
first phrase of a clause is considered. `rollout` "greedy" continues by the likeliest tokens, "beam" by `rollouts`
beams, "sample" by as many samples; the best of them counts. The paper's soft rollout, which feeds mixtures of
embeddings, is not implemented. Scores are stored without the heuristic. It costs `lookahead` more forwards a token.
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

    def front(self, session: Session, request: Request, wanted: Constraints) -> "Lookahead":
        """Return the search state for one prompt."""
        return Lookahead(self.width, self.rule(request), self.stopping(), request, wanted=wanted,
                         rules=self, knobs=self, session=session)


class Branch(NamedTuple):
    """A continuation of candidate `owner`: its newest node and its log p (0 for samples)."""

    owner: int
    node: int
    score: float = 0.0


class Chain(NamedTuple):
    """A phrase scored below a branch token by token: `total` is the log p of its first `done` tokens."""

    owner: int
    node: int
    phrase: Phrase
    total: float
    done: int = 1


@dataclass
class Lookahead(Groups):
    """Groups whose candidates are continued before they are ranked."""

    knobs: NeuroLogicAstar = NeuroLogicAstar()
    session: Session | None = None

    def ahead(self, kept: list[Hypothesis]) -> list[float]:
        """Return `alpha` times the best mean log p of a missing phrase; 0 when none is missing or fits."""
        room = self.request.max_new_tokens - len(kept[0].tokens)
        missing = [index for index, child in enumerate(kept) if not child.state.finished]
        bonus = [0.0] * len(kept)
        if self.knobs.alpha and room and missing:
            for index, value in zip(missing, self.estimates([kept[index] for index in missing], room), strict=True):
                bonus[index] = self.knobs.alpha * value if value > -math.inf else 0.0
        return bonus

    def estimates(self, kept: list[Hypothesis], room: int) -> list[float]:
        """Return the best mean log p for each of `kept`; −∞ when no phrase fits into the `room` tokens left."""
        best = [-math.inf] * len(kept)
        branches = [Branch(owner, child.node) for owner, child in enumerate(kept)]
        steps = [(owner, child.tokens[-1], 0.0) for owner, child in enumerate(kept)]
        chains, offset, end = list[Chain](), 0, min(self.knobs.lookahead, room)
        while steps or chains:
            branches, log_p, chains = self.forward(branches, steps, chains)
            chains += self.begun(kept, branches, log_p, offset, room)
            for chain in chains:
                if chain.done == len(chain.phrase):
                    best[chain.owner] = max(best[chain.owner], chain.total / chain.done)
            chains = [chain for chain in chains if chain.done < len(chain.phrase)]
            offset += 1
            steps = self.steps(branches, log_p, first=offset == 1) if offset < end else []
        return best

    def forward(self, branches: list[Branch], steps: list[tuple[int, int, float]], chains: list[Chain]
                ) -> tuple[list[Branch], Tensor, list[Chain]]:
        """Extend branches (branch, token, score) and chains by a token in one forward; return log p (n, V) as well."""
        assert self.session is not None
        first = self.session.nodes
        reading = self.session.grow([token for _, token, _ in steps] + [one.phrase[one.done - 1] for one in chains],
                                    [branches[i].node for i, _, _ in steps] + [one.node for one in chains])
        log_p = reading.logits[1:].log_softmax(-1)
        grown = [Branch(branches[i].owner, first + n, score) for n, (i, _, score) in enumerate(steps)]
        values = at(log_p, [(n, chain.phrase[chain.done]) for n, chain in enumerate(chains, len(steps))])
        return grown, log_p[:len(steps)], [
            chain._replace(node=first + n, total=chain.total + value, done=chain.done + 1)
            for n, (chain, value) in enumerate(zip(chains, values, strict=True), len(steps))]

    def begun(self, kept: list[Hypothesis], branches: list[Branch], log_p: Tensor, offset: int, room: int
              ) -> list[Chain]:
        """Start a chain for each missing phrase that fits after a branch, and at offset 0 for the rest of open ones.

        `log_p` (n, V) belongs to the tokens after the branches.
        """
        missing = [[clause[0] for clause in child.state.unmet()] for child in kept]
        for phrases, child in zip(missing, kept, strict=True) if not offset else ():
            phrases += [place.phrase[place.done:] for place in child.state.open]
        starts = [(row, branch, phrase) for row, branch in enumerate(branches)
                  for phrase in missing[branch.owner] if offset + len(phrase) <= room]
        values = at(log_p, [(row, phrase[0]) for row, _, phrase in starts])
        return [Chain(branch.owner, branch.node, phrase, value)
                for (_, branch, phrase), value in zip(starts, values, strict=True)]

    def steps(self, branches: list[Branch], log_p: Tensor, first: bool) -> list[tuple[int, int, float]]:
        """Return branch, token and score of the next tokens; branches that end are left out."""
        steps, taken = list[tuple[int, int, float]](), Counter[int]()
        if self.knobs.rollout == "sample":
            draws = self.knobs.rollouts if first else 1
            probs = log_p.exp()
            steps = [(i, self.request.stream.choose(probs[i]), 0.0) for i in range(len(log_p)) for _ in range(draws)]
        else:
            width = 1 if self.knobs.rollout == "greedy" else self.knobs.rollouts
            values, tokens = log_p.topk(min(width, log_p.shape[1])) if branches else (log_p, log_p)
            candidates = [(i, token, branch.score + value) for i, branch in enumerate(branches)
                          for token, value in zip(tokens[i].tolist(), values[i].tolist(), strict=True)]
            for step in sorted(candidates, key=lambda step: -step[2]):
                owner = branches[step[0]].owner
                if taken[owner] < width:
                    taken[owner] += 1
                    steps.append(step)
        return [step for step in steps if step[1] not in self.request.eos]
