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

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.nano.lists import ASKED, tested
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
        rows = zip(*tested().values(), strict=True)
        return [Example(f"parallel/{number}/{one.check['kind']}", one.turns, one.check, str(one.check["kind"]))
                for number, row in enumerate(rows) for one in row]

    def metric(self) -> "RightList":
        """Return the metric, which accepts any right answer."""
        from harness.scoring.lists import RightList

        return RightList()
