"""An oracle for diffusion language models: each step fills all masks whose token is that of the final answer.

A bound, no method (extremely greedy parallel decoding of Learn2PD, arXiv 2509.25188): the answer of `canvas_schedule`,
one token a step, is computed first, and this is not counted, though it takes time. The text is that of the schedule.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from harness.decoding.canvas_loop import Diffusion, Predicted
from harness.decoding.closing import agreeing
from harness.engine.session import Session
from harness.plugins.strategy import Request


@dataclass(frozen=True)
class CanvasOracle(Diffusion):
    """Gives the text of `canvas_schedule` in fewer steps."""

    paper: ClassVar[str] = "arXiv 2509.25188"

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield the tokens of the schedule, which another session computes first."""
        with closing(Session(session.engine)) as other:
            final = [token for step in self.fill(other, request, self.writes) for token in step]
        return self.fill(session, request, partial(right, [*request.prompt, *final]))


def right(final: Sequence[int], seen: Predicted, request: Request) -> Mapping[int, int]:
    """Return the tokens of the `final` text, prompt included, at all open places where they are predicted."""
    places = [place for place in seen.ranked if place < len(final)]
    found = agreeing(list(seen.written(places).values()), [final[place] for place in places])
    return {places[index]: final[places[index]] for index in found}
