"""Constrained beam search of transformers: the beam is shared in turns between banks of equal progress.

The rules of `generate(force_words_ids=…)` of transformers 4.49, which transformers 5 dropped; they are near to Post and
Vilar 2018 (arXiv 1804.06609). To the best children come all that begin or go on with a wanted phrase; they are put into
banks by the clauses met and the tokens of the open one, and the beam takes the best of each bank, then the second of
each. A clause with several phrases wants one of them. `width` is the beam; the words come from the task, and at the
token limit a text may lack some.

`variant` "repaired" keeps the best child of every hypothesis among the candidates, as Post and Vilar do, and texts that
meet more come first in the final list. "official" does what 4.49 does: what has met all goes on only while it is among
the best of all, so that it often gets lost; what the prompt has is met; ends that come too early take part and go to
waste; where fewer beams than answers asked for meet all at the last token, the others enter the final list as equals
(sample i is the last of i + 1 answers); a bank weighs as much as a log p of 100; of the phrases of a choice that part
here only the first is put into its bank; and the rules of a beam are those of 4.49.
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

BANK = 100.0  # what a bank weighs against log p in transformers 4.49


@dataclass(frozen=True)
class ConstrainedBeam(ConstrainedSearch):
    """Without constraints it is `beam`; "official" is then `diverse_beam:groups=1,variant=official`."""

    variant: str = knob("repaired", "whose rules", choices=("repaired", "official"), sweep=("repaired", "official"))

    paper: ClassVar[str] = "transformers 4.49, after Post and Vilar 2018, arXiv 1804.06609"

    def front(self, session: Session, request: Request, wanted: Constraints) -> "Dealt":
        """The search state for one prompt."""
        official = self.variant == "official"
        made = Official if official else Dealt
        return made(self.width, self.rule(request), self.stopping(), request, official, wanted=wanted)


@dataclass
class Dealt(Banks):
    """A beam dealt out in turns to the banks of `Turns.count`, with the candidates of dynamic beam allocation."""

    def start(self) -> Turns:
        """The state before any constraint is met."""
        return Turns(self.wanted)

    def select(self, found: list[Hypothesis]) -> list[int]:
        """The best of each bank, the bank that is furthest on first, then the second of each."""
        banks = [child.state.count for child in found]
        return dealt(sorted(range(len(found)), key=lambda place: -banks[place]), banks)[:self.width]


@dataclass
class Official(Dealt):
    """The beam of transformers 4.49, whose best are dealt out anew together with what goes on with a phrase."""

    def start(self) -> Turns:
        """What the prompt meets."""
        state = super().start()
        for token in self.request.prompt:
            state = state.advance(token)
        return state

    def impossible(self, hypothesis: Hypothesis) -> list[int]:
        """What is banned; an end that comes too early takes part, and goes to waste."""
        return self.wanted.avoided(hypothesis.tokens)

    def advance(self, log_p: Tensor, hidden: Tensor) -> None:
        """Extend the live beams by one token."""
        Beams.advance(self, log_p, hidden)

    def kept(self, best: list[Hypothesis], log_p: Tensor) -> list[Hypothesis]:
        """The beams after the deal; at the last token only those that meet all, where these are enough."""
        offers = [(row, token, bank) for row, parent in enumerate(self.live) for token, bank in offered(parent.state)]
        places, scores = [(row, token) for row, token, _ in offers], self.scored(log_p)
        found, banks = list(best), [child.state.count for child in best]
        known = {child.tokens for child in best}
        for (row, token, bank), score, log in zip(offers, at(scores, places), at(log_p, places), strict=True):
            child = self.child(row, token, score, log)
            if child.tokens in known or score == -float("inf"):
                continue
            known.add(child.tokens)
            if self.request.ends(child.tokens):
                self.finish(child)
            else:
                found.append(child)
                banks.append(bank)
        if len(found) > len(best):
            order = sorted(range(len(found)), key=lambda place: -(BANK * banks[place] + found[place].score))
            found = [found[place] for place in dealt(order, banks)[:self.width]]
        whole = [child for child in found if child.state.finished]
        return whole if self.last() and len(whole) > self.request.sample else found

    def finish(self, child: Hypothesis) -> None:
        """Put a hypothesis into the pool, unless it ends too early; the pool is ordered by score alone."""
        if child.state.finished or not self.request.ends(child.tokens):
            Beams.finish(self, child)


def dealt(order: Sequence[int], banks: Sequence[int]) -> list[int]:
    """The places of `order` in turns: the first of each run of one bank, then the second of each, and so on."""
    turns = [turn for _, run in groupby(order, key=banks.__getitem__) for turn, _ in enumerate(run)]
    return [place for _, place in sorted(zip(turns, order, strict=True), key=lambda one: one[0])]


def offered(state: Turns) -> list[tuple[int, int]]:
    """The tokens that 4.49 adds after a hypothesis, each with the bank that it puts it into.

    Phrases of an open clause that part here share one list of tokens written: what the first adds to it is still there
    when the next is tried, which is then undone, or goes on further than it is.
    """
    if not state.open:
        return [(token, state.advance(token).count) for token in sorted(state.allowed())]
    undone, size = replace(state, open=()).count, max(state.wanted.longest)
    places, written, banks = list(state.open), state.open[0].done, dict[int, int | None]()
    for token in dict.fromkeys(place.token for place in state.open):
        going = [place.next() for place in places if place.token == token]
        whole = any(place.complete for place in going)
        banks[token] = undone + size if whole else None if going else undone
        if going:
            places, written = [] if whole else going, written + 1
    begun = state.count - state.open[0].done + written
    return [(token, begun if bank is None else bank) for token, bank in banks.items()]
