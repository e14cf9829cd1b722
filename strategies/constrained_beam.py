"""Constrained beam search of transformers: the beam is shared in turns between banks of equal progress.

The rules of `generate(force_words_ids=…)` of transformers 4.49, which transformers 5 dropped; they resemble Post and
Vilar 2018 (arXiv 1804.06609). Candidates are the best children and all that begin or continue a required phrase. They
are put into banks by the clauses met and the tokens of the open one, and the beam takes the best of each bank, then the
second of each. A clause with several phrases needs one of them. `width` is the beam; the words come from the task, and
at the token limit a sequence may lack some.

`variant` "repaired" keeps the best child of every hypothesis among the candidates, as Post and Vilar do, and sequences
that meet more come first in the final list. "official" does what 4.49 does. A hypothesis that meets all clauses must
stay among the best of all, so it is often lost. Phrases of the prompt count as met. Early ends are candidates, and are
then dropped. When too few beams meet all clauses at the last token, the others enter the final list as equals (sample i
is the last of i + 1 answers). A bank counts like a log p of 100. Of alternative phrases that differ in their next
token, only the first is put into its bank. The rules of a beam are those of 4.49.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import ClassVar

from torch import Tensor

from harness.decoding.constrained import ConstrainedSearch, at
from harness.decoding.constraints import Constraints, Turns
from harness.decoding.search import Beams, Hypothesis
from harness.engine.session import Session
from harness.plugins.strategy import Request, knob
from strategies.dba import Banks

BANK = 100.0  # weight of a bank against log p in transformers 4.49


@dataclass(frozen=True)
class ConstrainedBeam(ConstrainedSearch):
    """Without constraints it is `beam`; "official" is then `diverse_beam:groups=1,variant=official`."""

    variant: str = knob("repaired", "whose rules", choices=("repaired", "official"), sweep=("repaired", "official"))

    paper: ClassVar[str] = "transformers 4.49, after Post and Vilar 2018, arXiv 1804.06609"

    def front(self, session: Session, request: Request, wanted: Constraints) -> "Dealt":
        """Return the search state for one prompt."""
        official = self.variant == "official"
        kind = Official if official else Dealt
        return kind(self.width, self.rule(request), self.stopping(), request, official, wanted=wanted)


@dataclass
class Dealt(Banks):
    """A beam filled in turns from the banks of `Turns.count`, with the candidates of dynamic beam allocation."""

    def start(self) -> Turns:
        """Return the state before any constraint is met."""
        return Turns(self.wanted)

    def select(self, candidates: list[Hypothesis]) -> list[int]:
        """Return the best of each bank, the most advanced bank first, then the second of each."""
        banks = [child.state.count for child in candidates]
        return dealt(sorted(range(len(candidates)), key=lambda index: -banks[index]), banks)[:self.width]


@dataclass
class Official(Dealt):
    """The beam of transformers 4.49, which is filled again from its best and the continuations of phrases."""

    def start(self) -> Turns:
        """Return the state after the prompt, whose phrases count as met."""
        state = super().start()
        for token in self.request.prompt:
            state = state.advance(token)
        return state

    def impossible(self, hypothesis: Hypothesis) -> list[int]:
        """Return the banned tokens; an early end is not among them, and is dropped later."""
        return self.wanted.avoided(hypothesis.tokens)

    def advance(self, log_p: Tensor, hidden: Tensor) -> None:
        """Extend the live beams by one token."""
        Beams.advance(self, log_p, hidden)

    def kept(self, best: list[Hypothesis], log_p: Tensor) -> list[Hypothesis]:
        """Return the beams after dealing; at the last token only those that meet all clauses, if they are enough."""
        offers = [(row, token, bank) for row, parent in enumerate(self.live) for token, bank in offered(parent.state)]
        indices, scores = [(row, token) for row, token, _ in offers], self.scored(log_p)
        children, banks = list(best), [child.state.count for child in best]
        known = {child.tokens for child in best}
        for (row, token, bank), score, log in zip(offers, at(scores, indices), at(log_p, indices), strict=True):
            child = self.child(row, token, score, log)
            if child.tokens in known or score == -float("inf"):
                continue
            known.add(child.tokens)
            if self.request.ends(child.tokens):
                self.finish(child)
            else:
                children.append(child)
                banks.append(bank)
        if len(children) > len(best):
            order = sorted(range(len(children)), key=lambda index: -(BANK * banks[index] + children[index].score))
            children = [children[index] for index in dealt(order, banks)[:self.width]]
        complete = [child for child in children if child.state.finished]
        return complete if self.last() and len(complete) > self.request.sample else children

    def finish(self, child: Hypothesis) -> None:
        """Put a hypothesis into the pool, unless it ends too early; the pool is ordered by score alone."""
        if child.state.finished or not self.request.ends(child.tokens):
            Beams.finish(self, child)


def dealt(order: Sequence[int], banks: Sequence[int]) -> list[int]:
    """Reorder the indices `order`: the first of each run of one bank, then the second of each, and so on."""
    turns = [turn for _, run in groupby(order, key=banks.__getitem__) for turn, _ in enumerate(run)]
    return [index for _, index in sorted(zip(turns, order, strict=True), key=lambda pair: pair[0])]


def offered(state: Turns) -> list[tuple[int, int]]:
    """Return the tokens that 4.49 adds after a hypothesis, each with the bank that it goes into.

    Alternative phrases of an open clause share one list of written tokens in 4.49. The first one's token is still in it
    when the next is tried, which is then undone, or counts one token too many.
    """
    if not state.open:
        return [(token, state.advance(token).count) for token in sorted(state.allowed())]
    undone, size = replace(state, open=()).count, max(state.wanted.longest)
    places, written, banks = list(state.open), state.open[0].done, dict[int, int | None]()
    for token in dict.fromkeys(place.token for place in state.open):
        following = [place.next() for place in places if place.token == token]
        whole = any(place.complete for place in following)
        banks[token] = undone + size if whole else None if following else undone
        if following:
            places, written = [] if whole else following, written + 1
    begun = state.count - state.open[0].done + written
    return [(token, begun if bank is None else bank) for token, bank in banks.items()]
