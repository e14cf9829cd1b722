"""Beam search under lexical constraints: when hypotheses may end, and the order of the final list."""

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from harness.decoding.constraints import Constraints
from harness.decoding.search import Beams, Divisor, EarlyStopping, Hypothesis, LengthRule, Search, divisor, walk
from harness.engine.session import Session
from harness.plugins.strategy import Guarantee, Request, knob


@dataclass
class Constrained(Beams):
    """Beams whose hypotheses end only when every clause is met, and that never contain banned phrases.

    A method defines which children are considered (`proposed`) and which survive (`select`); the state of a hypothesis
    is one of `harness.decoding.constraints`. The final list is sorted by the number of clauses met. Without clauses
    this is plain beam search.
    """

    wanted: Constraints = field(default_factory=Constraints)

    def __post_init__(self) -> None:
        """Start with the empty hypothesis, which meets no clause."""
        self.live = [Hypothesis(state=self.start())]

    @abstractmethod
    def start(self) -> Any:
        """Return the state before the first token."""

    @abstractmethod
    def proposed(self, scores: Tensor) -> Iterable[tuple[int, int, Any]]:
        """Return row, token and state of the children to consider, given all scores (b, V); duplicates are allowed."""

    @abstractmethod
    def select(self, candidates: list[Hypothesis]) -> list[int]:
        """Return the indices of the surviving `candidates`, which are sorted from the best to the worst."""

    def scored(self, log_p: Tensor) -> Tensor:
        """Return the scores of plain beams, with −∞ for banned tokens and for EOS before every clause is met."""
        scores = super().scored(log_p)
        for row, hypothesis in enumerate(self.live):
            if forbidden := self.impossible(hypothesis):
                scores[row, forbidden] = -math.inf
        return scores

    def impossible(self, hypothesis: Hypothesis) -> list[int]:
        """Return the tokens that are forbidden after a hypothesis."""
        early = [] if hypothesis.state.finished else self.request.eos
        return [*self.wanted.avoided(hypothesis.tokens), *early]

    def advance(self, log_p: Tensor, hidden: Tensor) -> None:
        """Extend the live hypotheses by one token."""
        if not self.wanted.clauses:
            return super().advance(log_p, hidden)
        last, scores = self.last(), self.scored(log_p)
        for child in self.ended(scores, log_p):
            self.finish(child)
        scores[:, list(self.request.eos)] = -math.inf
        candidates = [child for child in self.children(scores, log_p) if not self.request.ends(child.tokens)]
        self.live = [candidates[i] for i in sorted(self.select(candidates))] if candidates else []
        if last:
            for child in self.live:
                self.finish(child)
        self.done = last or not self.live or self._settled(self.live[0])

    def ended(self, scores: Tensor, log_p: Tensor) -> list[Hypothesis]:
        """Return the selected children that end; they compete with all other children."""
        if not any(hypothesis.state.finished for hypothesis in self.live):
            return []
        candidates = self.children(scores, log_p)
        return [candidates[i] for i in self.select(candidates) if self.request.ends(candidates[i].tokens)]

    def children(self, scores: Tensor, log_p: Tensor) -> list[Hypothesis]:
        """Return the proposed children, best first, without those that end before every clause is met."""
        proposed = list(dict.fromkeys(self.proposed(scores)))
        indices = [(row, token) for row, token, _ in proposed]
        values = zip(at(scores, indices), at(log_p, indices), proposed, strict=True)
        children = []
        for score, log, (row, token, state) in sorted(values, key=lambda value: (-value[0], value[2][:2])):
            parent = self.live[row]
            child = Hypothesis((*parent.tokens, token), score, parent.log_p + log, parent.node, state)
            if score > -math.inf and (state.finished or not self.request.ends(child.tokens)):
                children.append(child)
        return children

    def finish(self, child: Hypothesis) -> None:
        """Add a hypothesis to the pool, which keeps the best `width` by clauses met, then by score."""
        self.pool.append(child)
        self.pool.sort(key=lambda h: (-len(h.state.met), -h.ranked(self.divisor)))
        del self.pool[self.width:]

    def child(self, row: int, token: int, score: float, log_p: float) -> Hypothesis:
        """Return the hypothesis that extends the live beam of that row, with its state."""
        return super().child(row, token, score, log_p)._replace(state=self.live[row].state.advance(token))


@dataclass(frozen=True)
class ConstrainedSearch(Search):
    """A search for the likeliest sequence that meets the request's constraints; all tokens are committed at once.

    Without constraints it is `beam`.
    """

    width: int = knob(10, "beams", low=1, high=256, sweep=(5, 10, 20), also="num_beams")
    length_penalty: float = knob(1.0, "exponent of the length rule; 0 divides by nothing", low=-5, high=5,
                                 sweep=(0.0, 0.6, 1.0, 2.0))
    early_stopping: str = knob("false", "when a full pool ends the search", choices=("false", "true", "never"))
    length_rule: str = knob("power", "what log p is divided by, as in beam", choices=("power", "gnmt", "full", "none"))

    family: ClassVar[str] = "constraints"
    guarantee: ClassVar[Guarantee] = "changes-output"

    @abstractmethod
    def front(self, session: Session, request: Request, wanted: Constraints) -> Constrained:
        """Return the search for one prompt."""

    def search(self, session: Session, request: Request, wanted: Constraints | None = None) -> list[Hypothesis]:
        """Return the final list, best first; `wanted` replaces the constraints of the request."""
        front = self.front(session, request, Constraints.of(request) if wanted is None else wanted)
        walk(session, [front])
        return front.pool

    def rule(self, request: Request) -> Divisor:
        """Return the divisor of scores by length."""
        return divisor(cast(LengthRule, self.length_rule), self.length_penalty, prompt=len(request.prompt))

    def stopping(self) -> EarlyStopping:
        """Return the rule by which a full pool ends the search."""
        return cast(EarlyStopping, self.early_stopping)


def at(table: Tensor, indices: Sequence[tuple[int, int]]) -> list[float]:
    """Return the values of `table` (N, V) at (row, column) indices."""
    index = torch.tensor(indices, dtype=torch.long, device=table.device).reshape(-1, 2)
    values: list[float] = table[index[:, 0], index[:, 1]].tolist()
    return values
