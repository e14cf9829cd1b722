"""Conditional beam search: find the likeliest sequence among those that are neither empty nor repetitive.

Yoshida et al. 2023, "MAP's not dead yet" (arXiv 2311.08817). A prefix is ranked by log p + log P(A | prefix), where A
says that the whole text will not be degenerate: of its `ngram`-grams at most the share `repeated` are repeats. The
second term is taken anew at every step and never adds up. `classifier` "rule" takes a prefix for safe until it repeats
itself, and then gives it the chance `doubt`; "nano" or a file is a logistic regression on hidden states
(`python -m strategies.tools.conditional_train`), for which the `candidates` likeliest tokens of each beam are read
before they are ranked, still in one forward a step; the file says what A is. "none" takes all for safe. Of a finished
text A is known, and one without it comes last. Sample i of a prompt is the i-th best hypothesis.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from harness.decoding.search import Hypothesis, Search, Slots, best, divisor, walk
from harness.engine.session import Session
from harness.plugins.strategy import Request, knob
from strategies.parts.conditional import Attribute, Certain, Judge, Rule, Trained


@dataclass(frozen=True)
class ConditionalBeam(Search):
    """`classifier=none` is `beam` with `finished=kept`."""

    width: int = knob(4, "beams", low=1, high=64, sweep=(2, 4, 8))
    classifier: str = knob("rule", "classifier of prefixes: rule, nano, a file, or none",
                           sweep=("none", "rule", "nano"), file=True)
    candidates: int = knob(10, "tokens per beam that are classified; at least width", low=1, high=200,
                           sweep=(10, 20, 50, 100))
    length_penalty: float = knob(1.0, "the score is divided by length to this power", low=-5, high=5,
                                 sweep=(0.0, 0.6, 1.0))
    doubt: float = knob(0.01, "probability that a repetitive prefix recovers, rule", low=1e-9, high=1,
                        sweep=(0.001, 0.01, 0.1))
    ngram: int = knob(4, "n-gram size that counts as a repeat, rule", low=1, high=16, sweep=(3, 4))
    repeated: float = knob(0.2, "share of repeats above which a text is repetitive, rule", low=0, high=1,
                           sweep=(0.0, 0.1, 0.2))

    paper: ClassVar[str] = "Yoshida et al. 2023, arXiv 2311.08817"

    @cached_property
    def judge(self) -> Judge:
        """What `classifier` names; raises `UserError` when there is no such file."""
        if self.classifier == "none":
            return Certain()
        if self.classifier == "rule":
            return Rule(Attribute(self.ngram, self.repeated), self.doubt)
        return Trained.load(self.classifier)

    def search(self, session: Session, request: Request, judge: Judge | None = None) -> list[Hypothesis]:
        """The finished hypotheses, best first, as `judge` sees them; `score` is log p + log P(A)."""
        judge = judge or self.judge
        size = judge.attribute.size if isinstance(judge, Rule | Trained) else self.ngram
        slots = Judged(self.width, divisor("power", self.length_penalty), "false", request, judge=judge,
                       candidates_each=max(self.width, self.candidates), size=size, live=[Hypothesis(state=0)])
        walk(session, [slots])
        return slots.pool


@dataclass
class Judged(Slots):
    """Beams ranked by a judge; where it reads hidden states, `live` are candidates that are ranked once they are read.

    The state of a hypothesis counts the n-grams of `size` tokens in it that it has said before.
    """

    judge: Judge = field(default_factory=Certain)
    candidates_each: int = 10
    size: int = 4

    def advance(self, log_p: Tensor, hidden: Tensor) -> None:
        """Rank what has been read, and extend the best of it by one token."""
        if self.judge.reads and self.live[0].tokens:
            rows = {h.node: row for row, h in enumerate(self.live)}
            self.settle([(h, False) for h in self._judged(self.live, hidden)])
            if self.done:
                return
            log_p = log_p[[rows[h.node] for h in self.live]]
        last = self.last()
        found = self.candidates(log_p, len(self.live) * self.candidates_each)
        children = [(h, self.request.ends(h.tokens)) for h in found]
        ended = [(self._final(h), True) for h, ends in children if ends or last]
        going = [h for h, ends in children if not (ends or last)]
        if not self.judge.reads:
            self.settle(ended + [(h, False) for h in self._judged(going, hidden)])
            return
        self.settle(ended)
        if len(self.pool) == self.width:  # log P(A) cannot raise a score: what is below all the finished stays there
            least = self.pool[-1].ranked(self.divisor)
            going = [h for h in going if h.ranked(self.divisor) > least]
        self.live, self.done = going, not going

    def scored(self, log_p: Tensor) -> Tensor:
        """(b, V) log p of the likeliest children of each beam, −∞ for the others."""
        grams = [zip(*(h.tokens[i:] for i in range(self.size)), strict=False) for h in self.live]
        self._grams = [set(of_one) for of_one in grams]
        kept = torch.full_like(log_p, -torch.inf)
        for row, h in enumerate(self.live):
            likely = best(log_p[row], self.candidates_each)
            kept[row, likely] = h.log_p + log_p[row, likely]
        return kept

    def child(self, row: int, token: int, score: float, log_p: float) -> Hypothesis:
        """The child with its repeats; EOS repeats nothing."""
        child, size = super().child(row, token, score, log_p), self.size
        again = token not in self.request.eos and child.tokens[-size:] in self._grams[row]
        return child._replace(state=self.live[row].state + again)

    def _judged(self, hypotheses: list[Hypothesis], hidden: Tensor) -> list[Hypothesis]:
        chances = self.judge.log_p(hypotheses, hidden) if hypotheses else []
        return [h._replace(score=h.log_p + chance) for h, chance in zip(hypotheses, chances, strict=True)]

    def _final(self, text: Hypothesis) -> Hypothesis:
        length = len(text.tokens) - (text.tokens[-1] in self.request.eos)
        return text._replace(score=text.log_p + self.judge.final(text, length))
