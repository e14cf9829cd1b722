"""Lists of names, written by the project, that show what is lost when several tokens are chosen at once.

Two problems, and a right answer to each:

    List: Tom, Mia, Adam
    Reversed: Adam, Mia, Tom

    List: Tom, Mia, Adam
    In any order: Mia, Tom, Adam

They follow ParallelBench (arXiv 2510.04767). The names of a copied, reversed or sorted list, or of one with a name
replaced at a given place, follow from the prompt. In one that may have any order, or any name replaced, each depends
on the others, so that names chosen at once fit together by chance only. Any right answer counts. The embedded models
were not trained on lists, so it is no part of a run that names no task.
"""

import itertools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.nano.lists import ASKED, draw
from harness.plugins.data import DataSource
from harness.plugins.task import Example, Task

if TYPE_CHECKING:
    from harness.scoring.lists import RightList


@dataclass(frozen=True)
class NanoParallel(Task):
    """198 lists, 33 of each kind; the headline is the share of right answers."""

    version = 1
    source = "decodebench, harness/nano/lists.py"
    headline = "right"
    max_new_tokens = 16
    stop = ("\n",)
    sub_tasks: ClassVar[dict[str, str]] = {kind: kind for kind in ASKED}

    def examples(self, data: DataSource) -> list[Example]:
        """Return the problems, the kinds in turn."""
        rng, found = random.Random("parallel/test"), {kind: dict[str, Example]() for kind in ASKED}
        while min(map(len, found.values())) < 33:
            problem = draw(rng)
            kind = str(problem.check["kind"])
            found[kind][problem.id] = Example("", problem.turns, problem.check, kind)
        rows = itertools.islice(zip(*(each.values() for each in found.values()), strict=False), 33)
        return [Example(f"parallel/{number}/{one.category}", one.turns, one.gold, one.category)
                for number, row in enumerate(rows) for one in row]

    def metric(self) -> "RightList":
        """Return the metric, which accepts any right answer."""
        from harness.scoring.lists import RightList

        return RightList()
