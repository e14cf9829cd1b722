"""In-context navigation: list the answers so far in the prompt, and branch on the likeliest new first tokens.

Peng et al., Correlation and Navigation in the Vocabulary Key Representation Space of Language Models, 2024 (arXiv
2410.02284; code KomeijiForce/KeyNavi). A round appends the answers so far to the prompt, takes the likeliest first
tokens that begin none of them, and lets the other strategy complete each after the plain prompt. The count frequent
answer is returned; ties go to the first. `rounds` and `picks` are rounds and first tokens a round (the code: 10 by 10
to collect answers, 4 by 1 to reason). `listed=false` omits the list. With `gives=ways` there is no vote: sample i of a
prompt is the i-th answer.

The form of the list is ours and fits any task: after each answer comes the last line of the prompt again, so that the
next answer begins like the first one. When the list is too long for the model, the oldest answers are omitted. First
tokens are compared by id; the code compares their text.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from harness.decoding.samples import completed, elected
from harness.engine.session import Session
from harness.plugins.strategy import Need, Over, Request, knob


@dataclass(frozen=True)
class Icn(Over):
    """Identities: `rounds=1` with `picks=1` is the other strategy where that is greedy; `listed=false` branches on the
    likeliest first tokens.
    """

    rounds: int = knob(4, "rounds", low=1, high=100, sweep=(1, 4, 10))
    picks: int = knob(1, "new first tokens per round", low=1, high=100, sweep=(1, 4, 10))
    listed: bool = knob(True, "list the answers so far after the prompt", sweep=(True, False))
    gives: str = knob("vote", "the elected answer, or one answer per sample", choices=("vote", "ways"))

    paper: ClassVar[str] = "Peng et al. 2024, arXiv 2410.02284"
    needs: ClassVar[frozenset[Need]] = frozenset({"prompt"})
    family: ClassVar[str] = "many-samples"

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield the answer all at once."""
        count = self.rounds * self.picks if self.gives == "vote" else min(request.sample + 1, self.rounds * self.picks)
        answers = self.answers(session, request, count)
        yield self.voted(request, answers) if self.gives == "vote" else answers[-1]

    def max_samples(self) -> int | None:
        """Return the number of answers for `gives=ways`, else the limit of the other strategy."""
        return self.rounds * self.picks if self.gives == "ways" else super().max_samples()

    def answers(self, session: Session, request: Request, count: int) -> list[list[int]]:
        """Return the first `count` answers (token ids), or as many as there are first tokens; these differ."""
        answers: list[list[int]] = []
        session.follow(request.prompt)
        session.read()
        shown = session.fork()
        try:
            while len(answers) < count:
                room = shown.engine.max_len - len(request.prompt)
                shown.follow([*request.prompt, *self.shown(request, answers, room)])
                logits = shown.read().logits[0].clone()
                logits[[answer[0] for answer in answers]] = -math.inf
                order = logits.argsort(descending=True, stable=True)[:min(self.picks, count - len(answers))]
                fresh = order[logits[order] > -math.inf].tolist()
                if not fresh:
                    break
                own = request if self.gives == "vote" else replace(request, sample=0)
                answers += [completed(session, own, self.over, [token], len(answers) + i)
                            for i, token in enumerate(fresh)]
            return answers
        finally:
            shown.close()

    def shown(self, request: Request, answers: Sequence[list[int]], room: int) -> list[int]:
        """Return the token ids of the list of `answers`, fewer than `room`."""
        texts = [request.as_text.decode(answer).rstrip() for answer in answers] if self.listed else []
        tail = request.as_text.prompt.rpartition("\n")[2] if texts else ""
        while texts:
            tokens = request.as_text.tokens("".join(f"{text}\n{tail}" for text in texts))
            if len(tokens) < room:
                return tokens
            del texts[0]
        return []

    def voted(self, request: Request, answers: Sequence[list[int]]) -> list[int]:
        """Return the first answer with the most frequent result; the first of all when none has a result."""
        if len(answers) == 1:
            return answers[0]
        votes = [request.as_text.answer(request.as_text.decode(answer)) for answer in answers]
        best = elected(votes)
        return answers[votes.index(best[0]) if best else 0]
