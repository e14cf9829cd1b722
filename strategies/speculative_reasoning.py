"""Speculative reasoning: the draft model writes whole steps of a text, and the target those that a judge rejects.

SpecReason, Pan et al. 2025 (arXiv 2504.07891). A step ends with a blank line (with a line break if `unit` is line), and
after `longest` tokens. It stands if the judge's value of it is at least `threshold`, by default the number in brackets:
- logp (-0.25): mean log p of its tokens by the target, in nats, from one forward. This is not in the paper.
- score (7): the paper's. Asked to rate the step, the target answers with a digit; the value is the expected digit. The
  authors' code by default takes the likeliest token, and asks in a new chat turn; here the question follows the step.
- entropy (-1): minus the entropy in nats of the draft model's distribution before the step. The target writes the steps
  that begin unsure, so no draft is rejected. This is not in the paper.
- keywords (0): Speculative Thinking, Yang et al. 2025 (arXiv 2504.12329). -1 if the first 20 tokens have an English
  word of reflection, verification or affirmation, such as "wait". The target then writes the whole step, in the
  authors' code a number of tokens.

The target writes the first `first` steps. `temperature` and `p` apply to both models; the paper's are 0.6 and 0.95. The
accepted tokens of a report are those that the draft model wrote. The authors also end a text that repeats a step.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from harness.decoding.accept import at
from harness.decoding.loop import one_by_one
from harness.decoding.unverified import commit_draft
from harness.engine import logit_warps
from harness.engine.random_stream import Stream
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.errors import Unsupported
from harness.plugins.strategy import Guarantee, Need, Request, Strategy, knob

THRESHOLDS = {"logp": -0.25, "score": 7.0, "entropy": -1.0, "keywords": 0.0}
ENDS = {"paragraph": "\n\n", "line": "\n"}
DRAWS = 2**41  # the branch of the random stream that the draft model draws from
AHEAD = 20     # tokens of a step that are searched for keywords
KEYWORDS = re.compile(r"\b(wait|alternatively|hold on|another|verify|think again|recap|check|yeah|yes|final answer|"
                      r"confident)\b", re.IGNORECASE)
QUESTION = ("\n\nRate the last step: is it factually correct, and does it follow from those before? Style does not "
            "count. From 0 (wrong) to 9 (right), the quality score is: ")
NAN = "the draft model's logits are NaN; check its weights, or use another --dtype"


@dataclass(frozen=True)
class SpeculativeReasoning(Strategy):
    """With `threshold=1000` the text is the target's own, as of `top_p`, with `threshold=-1000` the draft model's."""

    judge: str = knob("logp", "what decides whether the draft model's step stands", choices=tuple(THRESHOLDS),
                      sweep=tuple(THRESHOLDS))
    threshold: float | None = knob(None, "least value of a step that stands; none is the judge's own", low=-1000,
                                   high=1000, sweep=(-2.0, -1.0, -0.5, -0.25))
    unit: str = knob("paragraph", "what a step is", choices=tuple(ENDS), sweep=tuple(ENDS))
    longest: int = knob(512, "maximum tokens of a step", low=1, high=4096, sweep=(16, 64, 512))
    first: int = knob(0, "steps that the target writes first", low=0, high=1000, sweep=(0, 1, 2))
    temperature: float = knob(0.0, "0 is greedy", low=0, high=10, sweep=(0.0, 0.6, 1.0))
    p: float = knob(1.0, "mass of the nucleus", low=0, high=1, sweep=(0.95, 1.0), also="top_p")

    paper: ClassVar[str] = "Pan et al. 2025, arXiv 2504.07891"
    family: ClassVar[str] = "speculative"
    guarantee: ClassVar[Guarantee] = "changes-output"
    needs: ClassVar[frozenset[Need]] = frozenset({"draft", "prompt"})

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield each step of the draft model that stands whole, and the target's own token by token."""
        sequence, count = list(request.prompt), 0
        judge, draws = _Judge(self, session, request), request.stream.branch(DRAWS)
        while True:
            drafted = list[int]()
            if count >= self.first and judge.wants(sequence):
                for token in self.step(session.draft, request, sequence, draws):
                    drafted.append(token)
                    if judge.doubts(drafted):
                        break
            if drafted and judge.accepts(sequence, drafted):
                sequence += drafted
                yield drafted
            else:
                for token in self.step(session, request, sequence, request.stream):
                    sequence.append(token)
                    yield [token]
            count += 1

    def step(self, session: Session, request: Request, sequence: Sequence[int], stream: Stream) -> Iterator[int]:
        """Yield the tokens of the step after `sequence`, as the model of `session` writes it."""
        answer, size, text = list(sequence[len(request.prompt):]), 0, request.as_text
        warp = logit_warps.drawn_at(self.temperature, logit_warps.top_p(self.p))
        own = replace(request, prompt=tuple(sequence), stream=stream)
        for block in one_by_one(session, at(self.temperature), own, warp):
            answer, size = answer + block, size + 1
            yield block[0]
            if size == self.longest or len(answer) >= request.max_new_tokens or request.ends(answer) \
                    or ENDS[self.unit] in text.decode(answer[-min(size, 2):]):
                return


class _Judge:
    """Decides about the draft model's steps of one text."""

    def __init__(self, method: SpeculativeReasoning, session: Session, request: Request) -> None:
        self.kind, self.session, self.text = method.judge, session, request.as_text
        self.least = THRESHOLDS[method.judge] if method.threshold is None else method.threshold
        if self.kind == "score":
            self.question = self.text.tokens(QUESTION)
            self.digits = [self.text.tokens(str(digit))[-1] for digit in range(10)]
            needed = len(request.prompt) + request.max_new_tokens + len(self.question)
            if len(set(self.digits)) < 10:
                raise Unsupported("needs a tokenizer in which each digit is a token: choose another judge than score")
            if needed > session.engine.max_len:
                raise Unsupported(f"needs {needed} tokens of context with the question to the target, which has "
                                  f"{session.engine.max_len}: lower --max-new-tokens")

    def wants(self, sequence: Sequence[int]) -> bool:
        """Return whether the draft model should write the next step."""
        if self.kind != "entropy":
            return True
        self.session.draft.follow(sequence)
        p = self.session.draft.read().logits[0].softmax(-1)
        return -float(torch.special.entr(p).sum()) >= self.least

    def doubts(self, step: Sequence[int]) -> bool:
        """Return whether the draft model need not end a step that has begun so."""
        return self.kind == "keywords" and len(step) <= AHEAD and self.value([], step) < self.least

    def accepts(self, sequence: Sequence[int], step: Sequence[int]) -> bool:
        """Return whether a step after `sequence` stands; if it does, commit it to the target's session.

        Raises `FloatingPointError` if the draft model's logits are NaN, as nothing else would show that.
        """
        if self.session.draft.has_nan:
            raise FloatingPointError(NAN)
        if self.kind == "logp":
            self.session.follow(sequence)
            logits = self.session.read(TokenTree.chain(step)).logits[:-1]
            own = logits.gather(1, torch.tensor(step, device=logits.device)[:, None])[:, 0]
            stands = float((own - logits.logsumexp(-1)).mean()) >= self.least
            self.session.keep(range(len(step) if stands else 0))
            return stands
        stands = self.kind == "entropy" or self.value(sequence, step) >= self.least
        commit_draft(self.session, sequence, step, stands)
        return stands

    def value(self, sequence: Sequence[int], step: Sequence[int]) -> float:
        """Return the value of a step by judge keywords or score."""
        if self.kind == "keywords":
            return -float(KEYWORDS.search(self.text.decode(step[:AHEAD])) is not None)
        self.session.follow([*sequence, *step, *self.question])
        chances = self.session.read().logits[0, self.digits].softmax(-1)
        return float((chances * torch.arange(10, device=chances.device)).sum())
