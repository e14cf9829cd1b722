"""SEAL: find passages of a corpus by n-grams that the model generates, all of which occur in it.

Bevilacqua et al. 2022 (arXiv 2204.10628). A beam search of `length` tokens may only go on with tokens that follow the
hypothesis somewhere in the file `corpus`, which has a passage on each line; with `corpus=task`, in the passages that
the task gives, as `nano_closed_set` does. Their log p are those of the whole vocabulary, not renormalised. Every
hypothesis of every step is a key: its score compares its log p with how often it occurs, to the power `alpha`; a
passage adds up the scores of its keys, in which a key counts less, by `beta`, the more of its tokens others have.
Sample i is the i-th passage, or with `gives=key` the i-th hypothesis.

The corpus is a suffix array of token ids, which answers the same questions as the paper's FM-index. Of the paper, keys
from titles and from the query are left out, and so are the scores of single tokens in uncovered places.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from harness.decoding.search import Beams, Hypothesis, Search, divisor, walk
from harness.engine.session import Session
from harness.errors import UserError
from harness.plugins.strategy import Request, knob
from strategies.parts.passages import Key, Passages, in_file, indexed

OF_TASK = "task"


@dataclass
class InCorpus(Beams):
    """Beams whose hypotheses occur in a corpus; `keys` has the log p of all of them, `ended` those at a text's end."""

    corpus: Passages = field(kw_only=True)
    keys: dict[Key, float] = field(default_factory=dict)
    ended: list[Hypothesis] = field(default_factory=list)

    def scored(self, log_p: Tensor) -> Tensor:
        """Return the scores of plain beams, with −∞ for tokens that do not follow in the corpus."""
        follow = [self.corpus.continuations(hypothesis.tokens) for hypothesis in self.live]
        self.ended += [hypothesis for hypothesis, tokens in zip(self.live, follow, strict=True) if not tokens]
        places = torch.tensor([(row, token) for row, tokens in enumerate(follow) for token in tokens],
                              dtype=torch.long, device=log_p.device).reshape(-1, 2)
        possible = torch.zeros_like(log_p, dtype=torch.bool).index_put(
            (places[:, 0], places[:, 1]), torch.ones((), dtype=torch.bool, device=log_p.device))
        return super().scored(log_p).masked_fill(~possible, -torch.inf)

    def advance(self, log_p: Tensor, hidden: Tensor) -> None:
        """Extend the live hypotheses by one token and keep them as keys."""
        super().advance(log_p, hidden)
        self.keys |= {hypothesis.tokens: hypothesis.log_p for hypothesis in self.live}

    def found(self) -> list[Hypothesis]:
        """Return the hypotheses that are complete or at the end of a text, best first."""
        return sorted({h.tokens: h for h in [*self.pool, *self.ended]}.values(), key=lambda h: -h.score)[:self.width]


@dataclass(frozen=True)
class Seal(Search):
    """With `gives=key`, and a corpus in which every sequence occurs, this is `beam` of a fixed length."""

    corpus: str = knob("", "file of passages, one a line; task for those of the task", file=True)
    width: int = knob(15, "beams", low=1, high=256, sweep=(1, 5, 15), also="num_beams")
    length: int = knob(10, "tokens of a key", low=1, high=31, sweep=(5, 10))
    alpha: float = knob(2.0, "power of the score of a key", low=0, high=10, sweep=(1.0, 2.0))
    beta: float = knob(0.8, "how much a key loses whose tokens others have", low=0, high=1, sweep=(0.0, 0.8))
    gives: str = knob("passage", "what an answer is", choices=("passage", "key"), sweep=("passage", "key"))

    paper: ClassVar[str] = "Bevilacqua et al. 2022, arXiv 2204.10628"
    family: ClassVar[str] = "constraints"

    def searched(self, session: Session, request: Request) -> InCorpus:
        """Return the search at its end; raises `UserError` without passages."""
        text, engine = request.as_text, session.engine
        of_task = self.corpus == OF_TASK
        if not self.corpus or (of_task and not text.parts.passages):
            raise UserError("seal needs passages: give corpus=…, a file with one a line, or corpus=task for those of "
                            "the task.")
        length = min(self.length, max(1, engine.max_len - len(request.prompt)))
        found = indexed(engine, tuple(text.parts.passages), text.tokens) if of_task else in_file(
            engine, self.corpus, text.tokens)
        plain = replace(request, max_new_tokens=length, eos=frozenset(), stopped=lambda tokens: False)
        front = InCorpus(self.width, divisor("none", 0.0), "never", plain, corpus=found)
        walk(session, [front])
        return front

    def search(self, session: Session, request: Request) -> list[Hypothesis]:
        """Return the keys of full length, and those at the end of a passage, best first."""
        return self.searched(session, request).found()

    def generate(self, session: Session, request: Request) -> Iterator[tuple[int, ...]]:
        """Yield the passage or key of this sample in one step; the best key where no passage has a score."""
        front = self.searched(session, request)
        answers = [h.tokens for h in front.found()]
        if self.gives == "passage" and (ranked := front.corpus.ranked(front.keys, self.alpha, self.beta)):
            answers = [tuple(front.corpus.tokens(number)) for number, _ in ranked[:request.sample + 1]]
        yield answers[min(request.sample, len(answers) - 1)]
