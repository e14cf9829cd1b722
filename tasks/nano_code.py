"""Small Python functions in the format of HumanEval, written by the project for its embedded models.

A problem, and its reference answer:

    def shared(left: list[int], right: list[int]) -> list[int]:
        \"\"\" Which numbers of left are also in right? Sort them.
        >>> shared([3, -2, 4], [3])
        [3]
        \"\"\"
        return sorted(set(left) & set(right))

Problems come from `harness.nano.corpus`, from the split that the models were not trained on. Program, stop strings and
scores are those of HumanEval.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.nano.corpus import problems
from harness.plugins.data import DataSource
from harness.plugins.task import Example, Task
from tasks.humaneval import HumanEval

if TYPE_CHECKING:
    from harness.scoring.metrics import CodePasses


@dataclass(frozen=True)
class NanoCode(Task):
    """200 test problems; the headline is the share of completions that pass."""

    version = 1
    source = "decodebench, harness/nano/corpus.py"
    headline = "pass"
    max_new_tokens = 160
    stop = HumanEval.stop
    executes_code = True

    def examples(self, data: DataSource) -> list[Example]:
        """Return the first 200 test problems."""
        return [
            Example(id=problem.id, turns=problem.turns, gold={"prompt": problem.turns[0], **problem.check})
            for problem in problems("code", "test", 200)
        ]

    def metric(self) -> "CodePasses":
        """Return the metric of HumanEval."""
        from harness.scoring.metrics import CodePasses

        return CodePasses()
