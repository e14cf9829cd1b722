"""Conditional beam search: find the likeliest sequence among those that are neither empty nor repetitive.

Yoshida et al. 2023, "MAP's not dead yet" (arXiv 2311.08817). A prefix is ranked by log p + log P(A | prefix). The
attribute A holds when the finished sequence is not degenerate: at most the share `repeated` of its `ngram`-grams are
repeats. The second term is computed anew at every step, not summed. `classifier` "rule" gives P = 1 until a prefix
repeats itself, then `doubt`; "nano" or a file is a logistic regression on hidden states (`python -m
strategies.tools.conditional_train`), which runs the `candidates` likeliest tokens of each beam through the model before
it ranks them, still one forward a step; the file defines A. "none" gives P = 1 to all. For a finished sequence A is
known, and one without A comes last. Sample i of a prompt is the i-th best hypothesis.
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

    width: int = knob(4, "beams", low=1, high=64, sweep=(2, 4, 8), also="num_beams")
    classifier: str = knob("rule", "classifier of prefixes: rule, nano, a file, or none",
                           sweep=("none", "rule", "nano"), file=True)
    candidates: int = knob(10, "tokens per beam that are classified; at least width", low=1, high=200,
                           sweep=(10, 20, 50, 100))
    length_penalty: float = knob(1.0, "the score is divided by length to this power", low=-5, high=5,
                                 sweep=(0.0, 0.6, 1.0))
    doubt: float = knob(0.01, "probability that a repetitive prefix recovers, rule", low=1e-9, high=1,
                        sweep=(0.001, 0.01, 0.1))
    ngram: int = knob(4, "n-gram size that counts as a repeat, rule", low=1, high=16, sweep=(3, 4))
    repeated: float = knob(0.2, "share of repeats above which a sequence is repetitive, rule", low=0, high=1,
                           sweep=(0.0, 0.1, 0.2))

    paper: ClassVar[str] = "Yoshida et al. 2023, arXiv 2311.08817"

    @cached_property
    def judge(self) -> Judge:
        """Return the classifier that the knob names; raises `UserError` when there is no such file."""
        if self.classifier == "none":
            return Certain()
        if self.classifier == "rule":
            return Rule(Attribute(self.ngram, self.repeated), self.doubt)
        return Trained.load(self.classifier)

    def search(self, session: Session, request: Request, judge: Judge | None = None) -> list[Hypothesis]:
        """Return the finished hypotheses, best first; `score` is log p + log P(A), the latter from `judge`."""
        judge = judge or self.judge
        size = judge.attribute.size if isinstance(judge, Rule | Trained) else self.ngram
        slots = Judged(self.width, divisor("power", self.length_penalty), "false", request, judge=judge,
                       candidates_each=max(self.width, self.candidates), size=size, live=[Hypothesis(state=0)])
        walk(session, [slots])
        return slots.pool


@dataclass
class Judged(Slots):
    """Beams ranked by a judge; if it uses hidden states, `live` are candidates that wait for their forward pass.

    The state of a hypothesis is the number of its n-grams of `size` tokens that repeat an earlier one.
    """

    judge: Judge = field(default_factory=Certain)
    candidates_each: int = 10
    size: int = 4

    def advance(self, log_p: Tensor, hidden: Tensor) -> None:
        """Rank the candidates of the last forward pass, and extend the best by one token."""
        if self.judge.reads and self.live[0].tokens:
            rows = {h.node: row for row, h in enumerate(self.live)}
            self.settle([(h, False) for h in self._judged(self.live, hidden)])
            if self.done:
                return
            log_p = log_p[[rows[h.node] for h in self.live]]
        last = self.last()
        extended = self.candidates(log_p, len(self.live) * self.candidates_each)
        children = [(h, self.request.ends(h.tokens)) for h in extended]
        ended = [(self._final(h), True) for h, ends in children if ends or last]
        unfinished = [h for h, ends in children if not (ends or last)]
        if not self.judge.reads:
            self.settle(ended + [(h, False) for h in self._judged(unfinished, hidden)])
            return
        self.settle(ended)
        if len(self.pool) == self.width:  # log P(A) ≤ 0: a score below all finished ones stays below
            least = self.pool[-1].ranked(self.divisor)
            unfinished = [h for h in unfinished if h.ranked(self.divisor) > least]
        self.live, self.done = unfinished, not unfinished

    def scored(self, log_p: Tensor) -> Tensor:
        """Return (b, V) log p of the likeliest children of each beam, −∞ for the others."""
        grams = [zip(*(h.tokens[i:] for i in range(self.size)), strict=False) for h in self.live]
        self._grams = [set(of_one) for of_one in grams]
        kept = torch.full_like(log_p, -torch.inf)
        for row, h in enumerate(self.live):
            likely = best(log_p[row], self.candidates_each)
            kept[row, likely] = h.log_p + log_p[row, likely]
        return kept

    def child(self, row: int, token: int, score: float, log_p: float) -> Hypothesis:
        """Return the child with its number of repeats; EOS is never one."""
        child, size = super().child(row, token, score, log_p), self.size
        repeated_gram = token not in self.request.eos and child.tokens[-size:] in self._grams[row]
        return child._replace(state=self.live[row].state + repeated_gram)

    def _judged(self, hypotheses: list[Hypothesis], hidden: Tensor) -> list[Hypothesis]:
        chances = self.judge.log_p(hypotheses, hidden) if hypotheses else []
        return [h._replace(score=h.log_p + chance) for h, chance in zip(hypotheses, chances, strict=True)]

    def _final(self, finished: Hypothesis) -> Hypothesis:
        length = len(finished.tokens) - (finished.tokens[-1] in self.request.eos)
        return finished._replace(score=finished.log_p + self.judge.final(finished, length))
