"""Grid beam search: one beam for each number of constraint tokens met so far, so that none crowds out another.

Hokamp and Liu 2017 (arXiv 1704.07138). A hypothesis is extended by a free token, begins a required phrase, or continues
its open phrase; it may end only when it contains all phrases. When the tokens left are just enough for the missing
phrases, nothing else is generated, so the sequence contains every phrase if the token limit allows it. The words come
from the task; `width` is the beam of one cell, and there is one cell more than required tokens. A phrase that appears
by chance in free tokens does not count in the paper and in the official code; with `variant` "counted" it does.
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

    width: int = knob(5, "beams of a cell", low=1, high=256, sweep=(2, 5, 10), also="num_beams")
    variant: str = knob("official", "whether a phrase in free tokens counts", choices=("official", "counted"),
                        sweep=("official", "counted"))

    paper: ClassVar[str] = "Hokamp and Liu 2017, arXiv 1704.07138"

    def front(self, session: Session, request: Request, wanted: Constraints) -> "Cells":
        """Return the search state for one prompt."""
        return Cells(self.width, self.rule(request), self.stopping(), request, wanted=wanted,
                     counted=self.variant == "counted")


@dataclass
class Cells(Constrained):
    """A beam for each number of required tokens."""

    counted: bool = False

    def start(self) -> Grid:
        """Return the state before any constraint is met."""
        return Grid(self.wanted, free=() if self.counted else None)

    def proposed(self, scores: Tensor) -> Iterator[tuple[int, int, Grid]]:
        """Yield the best free tokens of hypotheses without an open phrase, and all tokens of required phrases."""
        free = scores.topk(min(self.width, scores.shape[1]), dim=1).indices.tolist()
        for row, hypothesis in enumerate(self.live):
            state: Grid = hypothesis.state
            for token in [] if state.open else free[row]:
                yield row, token, state.wrote(token)
            for token, after in state.forced():
                yield row, token, after

    def select(self, candidates: list[Hypothesis]) -> list[int]:
        """Return the best of every cell from which the tokens left suffice to meet all constraints."""
        left = self.request.max_new_tokens - len(candidates[0].tokens)
        reachable = [index for index, child in enumerate(candidates) if child.state.left <= left]
        room: dict[int, int] = {}
        seen: set[object] = set()
        chosen = []
        for index in reachable or range(len(candidates)):
            child = candidates[index]
            cell, key = child.state.count, (child.tokens, child.state.met, child.state.open)
            if key not in seen and room.setdefault(cell, self.width) > 0:
                room[cell] -= 1
                seen.add(key)
                chosen.append(index)
        return chosen
