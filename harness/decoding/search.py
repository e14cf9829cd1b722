"""Beam search: fronts of live and finished hypotheses, and the loop that runs the model for them."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from harness.engine.session import Session
from harness.engine.tree import ROOT
from harness.plugins.strategy import Guarantee, Request, Strategy

EarlyStopping = Literal["false", "true", "never"]
LengthRule = Literal["power", "gnmt", "sockeye", "full", "none"]
Divisor = Callable[[int], float]
"""The divisor of a hypothesis' score, given its length in tokens with EOS and without the prompt."""


class Search(Strategy):
    """A strategy that searches for whole hypotheses; sample i is the i-th of them, committed in one step."""

    width: int

    family: ClassVar[str] = "search"
    guarantee: ClassVar[Guarantee] = "changes-output"

    @abstractmethod
    def search(self, session: Session, request: Request) -> "Sequence[Hypothesis]":
        """Return the hypotheses, best first."""

    def generate(self, session: Session, request: Request) -> Iterator[tuple[int, ...]]:
        """Yield the hypothesis of this sample in one step."""
        hypotheses = self.search(session, request)
        yield hypotheses[min(request.sample, len(hypotheses) - 1)].tokens

    def max_samples(self) -> int | None:
        """Return the number of beams, each of which is one sample."""
        return self.width


class Hypothesis(NamedTuple):
    """A continuation: its tokens, `score` (log p less penalties), `log_p` alone, and its newest node in the session.

    `state` is a method's own data.
    """

    tokens: tuple[int, ...] = ()
    score: float = 0.0
    log_p: float = 0.0
    node: int = ROOT
    state: Any = None

    def ranked(self, divisor: Divisor) -> float:
        """Return the score divided by the divisor of the length."""
        return self.score / divisor(len(self.tokens))


def divisor(rule: LengthRule, penalty: float, offset: float = 0.0, prompt: int = 0) -> Divisor:
    """Return the divisor that a length rule defines, where n is the length of a hypothesis.

    power (transformers 5, fairseq) n^penalty; sockeye ((offset + n) / (offset + 1))^penalty; gnmt the same with an
    offset of 5 (Wu et al. 2016, eq. 14, whose coverage term needs an encoder); full (transformers before 4.36)
    (`prompt` + n)^penalty; none 1.
    """
    def power(length: int) -> float:
        return float((before + length) ** penalty) / scale

    before = {"sockeye": offset, "gnmt": 5.0, "full": prompt}.get(rule, 0)
    scale = (before + 1) ** penalty if rule in ("sockeye", "gnmt") else 1.0
    return power if rule != "none" else lambda length: 1.0


class Front(Protocol):
    """One search; `live` starts with the empty hypothesis, and `pool` collects the finished ones."""

    request: Request
    live: list[Hypothesis]
    pool: list[Hypothesis]
    done: bool

    def advance(self, log_p: Tensor, hidden: Tensor) -> None:
        """Replace `live` by hypotheses one token longer, each with the node of its parent.

        `log_p` (b, V) and `hidden` (b, D) are the model's outputs after the b live hypotheses.
        """
        ...


def walk(session: Session, fronts: Sequence[Front]) -> None:
    """Run the fronts to their end, with one forward pass a step for all of them."""
    session.follow(fronts[0].request.prompt)
    reading = session.read()
    rows = [slice(0, 1) for _ in fronts]
    while True:
        log_p, hidden = reading.logits.log_softmax(-1), reading.hidden
        for front, part in zip(fronts, rows, strict=True):
            if not front.done:
                before = front.live
                front.advance(log_p[part], hidden[part])
                if not (front.live or front.pool):  # every continuation is forbidden: answer with the best so far
                    front.pool, front.done = before[:1], True
        live = [h for front in fronts if not front.done for h in front.live]
        if not live:
            return
        session.retain(sorted({h.node for h in live} - {ROOT}))
        first = session.nodes
        reading = session.grow([h.tokens[-1] for h in live], [h.node for h in live])
        row = 1  # row 0 is the prompt's
        for i, front in enumerate(fronts):
            if not front.done:
                rows[i] = slice(row, row + len(front.live))
                front.live = [h._replace(node=node) for node, h in enumerate(front.live, first + row - 1)]
                row += len(front.live)


def best(scores: Tensor, count: int) -> Tensor:
    """Return the indices of the `count` highest `scores` (N,), sorted by score, then index, without −∞."""
    values, indices = scores.topk(min(count + 1, scores.numel()))
    if bool((values[:-1] > values[1:]).all()):
        return indices[:count][values[:count] > -math.inf]
    least = values[:count][-1]
    indices = ((scores >= least) & (scores > -math.inf)).nonzero()[:, 0]  # topk does not order ties
    return indices[scores[indices].argsort(descending=True, stable=True)[:count]]


@dataclass
class Beams:
    """One group of `width` beams and its pool of finished hypotheses.

    The rules are those of transformers 5: candidates that end count only among the best `width`; `early_stopping`
    "true" stops at a full pool, "false" when the best live beam cannot beat the worst finished one at its present
    length, "never" when it cannot at any length; a single beam stops where greedy would. `legacy` follows
    transformers 4.49 where it differs: the best candidate, not the best live beam, decides, and all live beams enter
    the pool at the last token. Methods override `scored`, `chosen`, `child` and `kept`.
    """

    width: int
    divisor: Divisor
    early_stopping: EarlyStopping
    request: Request
    legacy: bool = False
    live: list[Hypothesis] = field(default_factory=lambda: [Hypothesis()])
    pool: list[Hypothesis] = field(default_factory=list)
    done: bool = False

    def scored(self, log_p: Tensor) -> Tensor:
        """Return the scores (b, V) of all children of the b live beams, given their next-token log p (b, V)."""
        return log_p + torch.tensor([h.score for h in self.live], device=log_p.device)[:, None]

    def chosen(self, scores: Tensor, count: int) -> Tensor:
        """Return the indices of `count` candidates in `scores` (b·V,); the first `width` of them may finish."""
        return best(scores, count)

    def child(self, row: int, token: int, score: float, log_p: float) -> Hypothesis:
        """Return the hypothesis that extends the live beam of that row by a token of this log p."""
        parent = self.live[row]
        return Hypothesis((*parent.tokens, token), score, parent.log_p + log_p, parent.node)

    def advance(self, log_p: Tensor, hidden: Tensor) -> None:
        """Extend the live beams by one token."""
        candidates, last = self.candidates(log_p, max(2, 1 + len(self.request.eos)) * self.width), self.last()
        unfinished = list[Hypothesis]()
        for child in candidates[:self.width]:
            ends = self.request.ends(child.tokens)
            if ends or (last and not self.legacy):
                self.finish(child)
            if not ends:
                unfinished.append(child)
        spare = sorted([*unfinished, *candidates[self.width:]], key=lambda h: -h.score)
        known, live = {id(child) for child in unfinished}, list[Hypothesis]()
        for child in spare:
            if len(live) == self.width:
                break
            if id(child) in known or not self.request.ends(child.tokens):
                live.append(child)
        self.live = self.kept(live, log_p)
        settled = not self.live or self._settled(candidates[0])
        if last and self.legacy and not settled:
            for child in self.live:
                self.finish(child)
        self.done = last or settled

    def kept(self, best: list[Hypothesis], log_p: Tensor) -> list[Hypothesis]:
        """Return the next live beams, given the best children that do not end; `live` still holds their parents."""
        return best

    def candidates(self, log_p: Tensor, count: int) -> list[Hypothesis]:
        """Return at most `count` children of the live beams, in the order of `chosen`."""
        scores, size = self.scored(log_p).flatten(), log_p.shape[1]
        indices = self.chosen(scores, count)
        children = zip(indices.tolist(), scores[indices].tolist(), log_p.flatten()[indices].tolist(), strict=True)
        return [self.child(index // size, index % size, score, log) for index, score, log in children]

    def last(self) -> bool:
        """Return whether the next token is the last one that the request allows."""
        return len(self.live[0].tokens) + 1 >= self.request.max_new_tokens

    def finish(self, child: Hypothesis) -> None:
        """Add a hypothesis to the pool, which keeps the best `width`."""
        self.pool.append(child)
        self.pool.sort(key=lambda h: -h.ranked(self.divisor))
        del self.pool[self.width:]

    def _settled(self, first: Hypothesis) -> bool:
        if len(self.pool) < self.width:
            return False
        if self.early_stopping == "true" or (self.width == 1 and not self.legacy):
            return True
        best = first if self.legacy else self.live[0]
        by = self.divisor(len(best.tokens))
        if self.early_stopping == "never":
            by = max(by, self.divisor(self.request.max_new_tokens))
        return best.score / by <= self.pool[-1].ranked(self.divisor)


@dataclass
class Slots(Beams):
    """Beams in which a finished hypothesis keeps its slot until better ones replace it.

    The search ends when all `width` are finished, or at the last token.
    """

    def advance(self, log_p: Tensor, hidden: Tensor) -> None:
        """Extend the live beams by one token and keep the best of them and the finished ones."""
        last = self.last()
        self.settle([(h, last or self.request.ends(h.tokens)) for h in self.candidates(log_p, self.width)])

    def settle(self, rows: Sequence[tuple[Hypothesis, bool]]) -> None:
        """Keep the best `width` of the pool and of `rows`, pairs of a hypothesis and whether it is finished."""
        both = sorted([*((h, True) for h in self.pool), *rows], key=lambda row: -row[0].ranked(self.divisor))
        self.pool = [h for h, finished in both[:self.width] if finished]
        self.live = [h for h, finished in both[:self.width] if not finished]
        self.done = not self.live
