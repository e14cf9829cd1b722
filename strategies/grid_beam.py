"""Grid beam search: one beam for each number of constraint tokens met so far, so that none crowds out another.

Hokamp and Liu 2017 (arXiv 1704.07138). A hypothesis goes on freely, begins a wanted phrase, or goes on with the
phrase it is in; only the beam of those that have all of them may end. Where the tokens left are just enough for what
is wanted, nothing else is written, so the text has every phrase whenever the token limit leaves room for them. The
words come from the task; `width` is the beam of one cell, of which there is one more than wanted tokens. A phrase that
free text happens to write does not count in the paper and in the official code; `variant` "counted" lets it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from harness.decoding.constrained import Constrained, ConstrainedSearch
from harness.decoding.constraints import Constraints, Grid
from harness.decoding.search import Hypothesis
from harness.engine.session import Session
from harness.plugins.strategy import Request, knob


@dataclass(frozen=True)
class GridBeam(ConstrainedSearch):
    """Without constraints it is `beam` of the same width. Unlike the official code it merges equal hypotheses."""

    width: int = knob(5, "beams of a cell", low=1, high=256, sweep=(2, 5, 10))
    variant: str = knob("official", "whether a phrase in free text counts", choices=("official", "counted"),
                        sweep=("official", "counted"))

    paper: ClassVar[str] = "Hokamp and Liu 2017, arXiv 1704.07138"

    def front(self, session: Session, request: Request, wanted: Constraints) -> "Cells":
        """The search state for one prompt."""
        return Cells(self.width, self.rule(request), self.stopping(), request, wanted=wanted,
                     counted=self.variant == "counted")


@dataclass
class Cells(Constrained):
    """A beam for each number of wanted tokens."""

    counted: bool = False

    def start(self) -> Grid:
        """The state before any constraint is met."""
        return Grid(self.wanted, free=() if self.counted else None)

    def proposed(self, scores: Tensor) -> Iterator[tuple[int, int, Grid]]:
        """The best free tokens of those that are in no phrase, and all that goes on with what is wanted."""
        free = scores.topk(min(self.width, scores.shape[1]), dim=1).indices.tolist()
        for row, hypothesis in enumerate(self.live):
            state: Grid = hypothesis.state
            for token in [] if state.open else free[row]:
                yield row, token, state.wrote(token)
            for token, after in state.forced():
                yield row, token, after

    def select(self, found: list[Hypothesis]) -> list[int]:
        """The best of every cell that the tokens left can still take to the end."""
        left = self.request.max_new_tokens - len(found[0].tokens)
        reachable = [place for place, child in enumerate(found) if child.state.left <= left]
        room: dict[int, int] = {}
        seen: set[object] = set()
        chosen = []
        for place in reachable or range(len(found)):
            child = found[place]
            cell, key = child.state.count, (child.tokens, child.state.met, child.state.open)
            if key not in seen and room.setdefault(cell, self.width) > 0:
                room[cell] -= 1
                seen.add(key)
                chosen.append(place)
        return chosen
