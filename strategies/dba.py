"""Dynamic beam allocation: one beam, shared between hypotheses by the number of constraint tokens they contain.

Post and Vilar 2018 (arXiv 1804.06609), with the rules of sockeye 1. Candidates are the best children of all, every
token that begins or goes on with a wanted phrase, and each hypothesis's best token; a bank for each number of wanted
tokens gets an equal share of the beam, and what it cannot use goes to the bank before it. EOS is possible only when
all is met. The words come from the task; `width` is the beam, whatever their number. At the token limit a text may
lack some.
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

    width: int = knob(10, "beams, whatever the number of constraints", low=1, high=256, sweep=(5, 10, 20, 30))

    paper: ClassVar[str] = "Post and Vilar 2018, arXiv 1804.06609"

    def front(self, session: Session, request: Request, wanted: Constraints) -> "Banks":
        """The search state for one prompt."""
        return Banks(self.width, self.rule(request), self.stopping(), request, wanted=wanted)


@dataclass
class Banks(Constrained):
    """A beam in banks by the number of wanted tokens (`Progress.count`)."""

    def start(self) -> Progress:
        """The state before any constraint is met."""
        return Progress(self.wanted)

    def proposed(self, scores: Tensor) -> Iterator[tuple[int, int, Progress]]:
        """The best children of all, the wanted tokens after each hypothesis, and its best token."""
        size = scores.shape[1]
        places = [(place // size, place % size) for place in best(scores.flatten(), self.width).tolist()]
        places += enumerate(scores.argmax(1).tolist())
        for row, hypothesis in enumerate(self.live):
            places += [(row, token) for token in sorted(hypothesis.state.allowed())]
        for row, token in dict.fromkeys(places):
            yield row, token, self.live[row].state.advance(token)

    def select(self, found: list[Hypothesis]) -> list[int]:
        """The best of every bank."""
        banks = [child.state.count for child in found]
        counts = Counter(banks)
        room = allocated(self.width, [counts[bank] for bank in range(sum(self.wanted.sizes) + 1)])
        chosen = []
        for place, bank in enumerate(banks):
            if room[bank] > 0:
                room[bank] -= 1
                chosen.append(place)
        return chosen


def allocated(width: int, counts: Sequence[int]) -> list[int]:
    """The slots of each bank, given how many candidates each has (Post and Vilar 2018, section 3.3).

    All banks get the same, the last one the rest too; from the last to the first, what a bank has no candidates for
    goes to the one before it, and from the first to the last.
    """
    banks = len(counts)
    room = [width // banks] * banks
    room[-1] += width % banks
    for bank in reversed(range(banks)):
        if (over := room[bank] - counts[bank]) > 0:
            room[bank] -= over
            room[bank - 1] += over
    return room
