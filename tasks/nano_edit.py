"""Passages to correct, written by the project for its embedded models.

A problem, and its reference answer:

    Text: Ivan finded a blue poster in the valley. The wolf ate three shells and a bun in the kiitchen.
    Corrected: Ivan found a blue poster in the valley. The wolf ate three shells and a bun in the kitchen.

Problems come from `harness.nano.corpus`, from the split that the models were not trained on. The answer copies most of
the prompt, as in code edits and rewriting, where drafting by lookup works best.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.nano.corpus import problems
from harness.plugins.data import DataSource
from harness.plugins.task import Example, Task

if TYPE_CHECKING:
    from harness.scoring.copying import ExactText


@dataclass(frozen=True)
class NanoEdit(Task):
    """200 test passages; the headline is the share that is exactly the corrected passage."""

    version = 1
    source = "decodebench, harness/nano/corpus.py"
    headline = "exact"
    max_new_tokens = 160
    stop = ("\n",)

    def examples(self, data: DataSource) -> list[Example]:
        """Return the first 200 test passages."""
        return [Example(id=text.id, turns=text.turns, gold=text.check) for text in problems("edit", "test", 200)]

    def metric(self) -> "ExactText":
        """Return the metric, which compares the answer with the corrected passage."""
        from harness.scoring.copying import ExactText

        return ExactText()
