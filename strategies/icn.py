"""In-context navigation: list the answers so far in the prompt, and branch on the likeliest new first tokens.

Peng et al., Correlation and Navigation in the Vocabulary Key Representation Space of Language Models, 2024 (arXiv
2410.02284; code KomeijiForce/KeyNavi). A round reads the prompt with a list of the answers found so far, takes the
likeliest first tokens that no answer has begun with, and lets the other strategy finish each after the prompt without
the list. The answer that most of them reach is written, ties go to the first. `rounds` and `picks` are rounds and first
tokens a round (the code: 10 by 10 to collect texts, 4 by 1 to reason). `listed=false` leaves the list out. `gives=ways`
holds no vote: sample i of a prompt is the i-th answer found.

The list is our own and fits any task: each answer stands where the model would write it, and the last line of the
prompt follows it, so that the next answer begins as the first one did. When the text grows too long for the model, the
oldest answers are left out. First tokens are told apart by id; the code compares their text.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from harness.decoding.samples import elected, nth, whole
from harness.engine.session import Session
from harness.plugins.strategy import Over, Request, knob


@dataclass(frozen=True)
class Icn(Over):
    """Identities: `rounds=1` with `picks=1` is the other strategy where that is greedy; `listed=false` branches on the
    likeliest first tokens.
    """

    rounds: int = knob(4, "rounds of listing the answers found", low=1, high=100, sweep=(1, 4, 10))
    picks: int = knob(1, "new first tokens per round", low=1, high=100, sweep=(1, 4, 10))
    listed: bool = knob(True, "list the answers found in the prompt", sweep=(True, False))
    gives: str = knob("vote", "the elected answer, or one answer per sample", choices=("vote", "ways"))

    paper: ClassVar[str] = "Peng et al. 2024, arXiv 2410.02284"
    family: ClassVar[str] = "many-samples"

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield the answer whole."""
        most = self.rounds * self.picks if self.gives == "vote" else min(request.sample + 1, self.rounds * self.picks)
        found = self.ways(session, request, most)
        yield self.voted(request, found) if self.gives == "vote" else found[-1]

    def most_samples(self) -> int | None:
        """One a way, or as many as the other strategy gives."""
        return self.rounds * self.picks if self.gives == "ways" else super().most_samples()

    def ways(self, session: Session, request: Request, most: int) -> list[list[int]]:
        """The first `most` answers (token ids), or as many as there are first tokens; these differ."""
        found: list[list[int]] = []
        session.follow(request.prompt)
        session.read()
        shown = session.fork()
        try:
            while len(found) < most:
                room = shown.engine.max_len - len(request.prompt)
                shown.follow([*request.prompt, *self.shown(request, found, room)])
                logits = shown.read().logits[0].clone()
                logits[[way[0] for way in found]] = -math.inf
                order = logits.argsort(descending=True, stable=True)[:min(self.picks, most - len(found))]
                fresh = order[logits[order] > -math.inf].tolist()
                if not fresh:
                    break
                found += [self.finished(session, request, token, len(found) + i) for i, token in enumerate(fresh)]
            return found
        finally:
            shown.close()

    def finished(self, session: Session, request: Request, token: int, number: int) -> list[int]:
        """Answer `number`, which begins with `token`, as the other strategy goes on from there."""
        if request.max_new_tokens == 1 or request.ends([token]):
            return [token]
        own = replace(nth(request, number, request.sample if self.gives == "vote" else 0),
                      prompt=(*request.prompt, token), max_new_tokens=request.max_new_tokens - 1,
                      stopped=lambda new: request.stopped([token, *new]))
        return [token, *whole(session, own, self.over)]

    def shown(self, request: Request, found: Sequence[list[int]], room: int) -> list[int]:
        """What follows the prompt when `found` are listed, in fewer than `room` tokens."""
        answers = [request.as_text.decode(way).rstrip() for way in found] if self.listed else []
        tail = request.as_text.prompt.rpartition("\n")[2] if answers else ""
        while answers:
            tokens = request.as_text.tokens("".join(f"{answer}\n{tail}" for answer in answers))
            if len(tokens) < room:
                return tokens
            del answers[0]
        return []

    def voted(self, request: Request, found: Sequence[list[int]]) -> list[int]:
        """The first answer that says what most of them say; the first of all where none says anything."""
        if len(found) == 1:
            return found[0]
        votes = [request.as_text.answer(request.as_text.decode(way)) for way in found]
        best = elected(votes)
        return found[votes.index(best[0]) if best else 0]
