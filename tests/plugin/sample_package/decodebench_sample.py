"""A strategy and a task in one module."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.engine.session import Session
from harness.plugins.data import DataSource
from harness.plugins.strategy import Guarantee, Request, Strategy, knob
from harness.plugins.task import Example, Task


@dataclass(frozen=True)
class RunnerUp(Strategy):
    """Always the token of one rank; rank 1 is greedy."""

    rank: int = knob(2, "place of the token that is taken", low=1, high=16, sweep=(1, 2, 3))

    paper: ClassVar[str] = "none"
    family: ClassVar[str] = "sampling"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one token a step."""
        text = list(request.prompt)
        while True:
            session.follow(text)
            text.append(int(session.read().logits[0].topk(self.rank).indices[-1]))
            yield text[-1:]


@dataclass(frozen=True)
class Counting(Task):
    """Go on counting."""

    version: ClassVar[int] = 1
    source: ClassVar[str] = "written for the tests"
    headline: ClassVar[str] = "right"
    max_new_tokens: ClassVar[int] = 4

    def examples(self, data: DataSource) -> list[Example]:
        """Two beginnings."""
        return [Example("one", ("1 2 3",), {"next": "4"}), Example("five", ("5 6 7",), {"next": "8"})]

    def score(self, example: Example, answers: Sequence[str]) -> dict[str, float]:
        """1 when the next number comes first."""
        return {"right": float(answers[0].split()[:1] == [example.gold["next"]])}
