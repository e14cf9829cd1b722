"""Beam search: live and finished hypotheses (fronts), and the walk that runs the model for them."""

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
"""What the score of a hypothesis of so many tokens is divided by, the length counting EOS but not the prompt."""


class Search(Strategy):
    """A strategy that searches for whole hypotheses; sample i is the i-th of them, committed in one step."""

    width: int

    family: ClassVar[str] = "search"
    guarantee: ClassVar[Guarantee] = "changes-output"

    @abstractmethod
    def search(self, session: Session, request: Request) -> "Sequence[Hypothesis]":
        """Return the hypotheses found, best first."""

    def generate(self, session: Session, request: Request) -> Iterator[tuple[int, ...]]:
        """Yield the chosen hypothesis in one step."""
        found = self.search(session, request)
        yield found[min(request.sample, len(found) - 1)].tokens

    def most_samples(self) -> int | None:
        """Return one sample per beam."""
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
        """Return the score divided by the length rule."""
        return self.score / divisor(len(self.tokens))


def divisor(rule: LengthRule, penalty: float, offset: float = 0.0, prompt: int = 0) -> Divisor:
    """The length rule of that name, n being the length of a hypothesis.

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
    """One search; `live` starts with the empty hypothesis, `pool` has the finished ones."""

    request: Request
    live: list[Hypothesis]
    pool: list[Hypothesis]
    done: bool

    def advance(self, log_p: Tensor, hidden: Tensor) -> None:
        """Replace `live` by hypotheses one token longer, each with the node of the one that it extends.

        `log_p` (b, V) and `hidden` (b, D) are the model's outputs after the b live ones.
        """
        ...


def walk(session: Session, fronts: Sequence[Front]) -> None:
    """Run the fronts side by side to their end, in order, with one forward a step for all of them."""
    session.follow(fronts[0].request.prompt)
    reading = session.read()
    rows = [slice(0, 1) for _ in fronts]
    while True:
        log_p, hidden = reading.logits.log_softmax(-1), reading.hidden
        for front, mine in zip(fronts, rows, strict=True):
            if not front.done:
                before = front.live
                front.advance(log_p[mine], hidden[mine])
                if not (front.live or front.pool):  # every way on is forbidden: the best text so far is the answer
                    front.pool, front.done = before[:1], True
        live = [h for front in fronts if not front.done for h in front.live]
        if not live:
            return
        session.retain(sorted({h.node for h in live} - {ROOT}))
        first = session.nodes
        reading = session.grow([h.tokens[-1] for h in live], [h.node for h in live])
        row = 1  # row 0 is the text's
        for i, front in enumerate(fronts):
            if not front.done:
                rows[i] = slice(row, row + len(front.live))
                front.live = [h._replace(node=node) for node, h in enumerate(front.live, first + row - 1)]
                row += len(front.live)


def best(scores: Tensor, count: int) -> Tensor:
    """Places of the `count` highest of `scores` (N,), highest first and equal ones by place; none that is −∞."""
    values, places = scores.topk(min(count + 1, scores.numel()))
    if bool((values[:-1] > values[1:]).all()):
        return places[:count][values[:count] > -math.inf]
    least = values[:count][-1]
    places = ((scores >= least) & (scores > -math.inf)).nonzero()[:, 0]  # ties: topk has no order among them
    return places[scores[places].argsort(descending=True, stable=True)[:count]]


@dataclass
class Beams:
    """One group of `width` beams and its pool of finished hypotheses.

    The rules are those of transformers 5: candidates that end count only among the best `width`; `early_stopping`
    "true" stops at a full pool, "false" when the best live beam cannot beat the worst finished one at its present
    length, "never" when it cannot at any length; a single beam stops where greedy would. `legacy` follows
    transformers 4.49 where it differs: the best candidate, not the best live beam, decides, and all live beams enter
    the pool at the last token. What a method does differently it says in `scored`, `chosen`, `child` and `kept`.
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
        """(b, V) scores of all children of the b live beams, given their next-token log p (b, V)."""
        return log_p + torch.tensor([h.score for h in self.live], device=log_p.device)[:, None]

    def chosen(self, scores: Tensor, count: int) -> Tensor:
        """Places in `scores` (b·V,) of `count` candidates; the first `width` of them may finish."""
        return best(scores, count)

    def child(self, row: int, token: int, score: float, log_p: float) -> Hypothesis:
        """The hypothesis that extends the live beam of that row by a token of this log p."""
        parent = self.live[row]
        return Hypothesis((*parent.tokens, token), score, parent.log_p + log_p, parent.node)

    def advance(self, log_p: Tensor, hidden: Tensor) -> None:
        """Extend the live beams by one token."""
        candidates, last = self.candidates(log_p, max(2, 1 + len(self.request.eos)) * self.width), self.last()
        going = list[Hypothesis]()
        for child in candidates[:self.width]:
            ends = self.request.ends(child.tokens)
            if ends or (last and not self.legacy):
                self.finish(child)
            if not ends:
                going.append(child)
        spare = sorted([*going, *candidates[self.width:]], key=lambda h: -h.score)
        known, live = {id(child) for child in going}, list[Hypothesis]()
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
        """The next live beams, given the best children that do not end; `live` are still their parents."""
        return best

    def candidates(self, log_p: Tensor, count: int) -> list[Hypothesis]:
        """At most `count` children of the live beams as `chosen` orders them."""
        scores, size = self.scored(log_p).flatten(), log_p.shape[1]
        places = self.chosen(scores, count)
        found = zip(places.tolist(), scores[places].tolist(), log_p.flatten()[places].tolist(), strict=True)
        return [self.child(place // size, place % size, score, log) for place, score, log in found]

    def last(self) -> bool:
        """Whether the next token is the last one that the request allows."""
        return len(self.live[0].tokens) + 1 >= self.request.max_new_tokens

    def finish(self, child: Hypothesis) -> None:
        """Put a hypothesis into the pool, which keeps the best `width`."""
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
    """Beams in which a finished hypothesis keeps its place: it competes on until better ones push it out.

    The search ends when all `width` are finished, or at the last token.
    """

    def advance(self, log_p: Tensor, hidden: Tensor) -> None:
        """Extend the live beams by one token and keep the best of them and the finished ones."""
        last = self.last()
        self.settle([(h, last or self.request.ends(h.tokens)) for h in self.candidates(log_p, self.width)])

    def settle(self, rows: Sequence[tuple[Hypothesis, bool]]) -> None:
        """Keep the best `width` of the finished ones and of `rows`, which say which of them are finished."""
        both = sorted([*((h, True) for h in self.pool), *rows], key=lambda row: -row[0].ranked(self.divisor))
        self.pool = [h for h, finished in both[:self.width] if finished]
        self.live = [h for h, finished in both[:self.width] if not finished]
        self.done = not self.live
