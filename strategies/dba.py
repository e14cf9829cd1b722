"""Dynamic beam allocation: one beam, shared between hypotheses by the number of constraint tokens they contain.

Post and Vilar 2018 (arXiv 1804.06609), with the rules of sockeye 1. Candidates are the best children of all, every
token that begins or continues a required phrase, and each hypothesis's best token. There is a bank for each number of
required tokens; it gets an equal share of the beam, and the bank before it gets what it cannot use. EOS is possible
only when all constraints are met. The words come from the task; `width` is the beam, whatever their number. At the
token limit a sequence may lack some.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from harness.decoding.constrained import Constrained, ConstrainedSearch
from harness.decoding.constraints import Constraints, Progress
from harness.decoding.search import Hypothesis, best
from harness.engine.session import Session
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class Dba(ConstrainedSearch):
    """Without constraints it is `beam` of the same width."""

    width: int = knob(10, "beams, whatever the number of constraints", low=1, high=256, sweep=(5, 10, 20, 30),
                      also="num_beams")

    paper: ClassVar[str] = "Post and Vilar 2018, arXiv 1804.06609"

    def front(self, session: Session, request: Request, wanted: Constraints) -> "Banks":
        """Return the search state for one prompt."""
        return Banks(self.width, self.rule(request), self.stopping(), request, wanted=wanted)


@dataclass
class Banks(Constrained):
    """A beam in banks by the number of required tokens (`Progress.count`)."""

    def start(self) -> Progress:
        """Return the state before any constraint is met."""
        return Progress(self.wanted)

    def proposed(self, scores: Tensor) -> Iterator[tuple[int, int, Progress]]:
        """Yield the best children of all, the required tokens after each hypothesis, and its best token."""
        size = scores.shape[1]
        children = [(index // size, index % size) for index in best(scores.flatten(), self.width).tolist()]
        children += enumerate(scores.argmax(1).tolist())
        for row, hypothesis in enumerate(self.live):
            children += [(row, token) for token in sorted(hypothesis.state.allowed())]
        for row, token in dict.fromkeys(children):
            yield row, token, self.live[row].state.advance(token)

    def select(self, candidates: list[Hypothesis]) -> list[int]:
        """Return the indices of the best of every bank."""
        banks = [child.state.count for child in candidates]
        counts = Counter(banks)
        room = allocated(self.width, [counts[bank] for bank in range(sum(self.wanted.sizes) + 1)])
        chosen = []
        for index, bank in enumerate(banks):
            if room[bank] > 0:
                room[bank] -= 1
                chosen.append(index)
        return chosen


def allocated(width: int, counts: Sequence[int]) -> list[int]:
    """Return the slots of each bank, given its number of candidates (Post and Vilar 2018, section 3.3).

    All banks get the same share, and the last one the remainder. From the last bank to the first, slots without a
    candidate go to the bank before; those of the first go to the last.
    """
    banks = len(counts)
    room = [width // banks] * banks
    room[-1] += width % banks
    for bank in reversed(range(banks)):
        if (over := room[bank] - counts[bank]) > 0:
            room[bank] -= over
            room[bank - 1] += over
    return room
