"""Extractive summaries of short texts, written by the project for its embedded models.

A problem, and its reference answer:

    Text: Tom found a brown hat and an old saw in the village. He lost a kite, twelve toys and a key on the way to Lima.
    The museum was closed on Saturday because of the snow. Adam wrote a long letter to the baker about the rain.
    Summary of Tom: Tom found a brown hat and an old saw in the village. He lost a kite, twelve toys and a key on the
    way to Lima.

Problems come from `harness.nano.corpus`, from the split that the models were not trained on. The answer is copied from
the prompt; the rule is in `harness.nano.summaries`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.nano.corpus import problems
from harness.plugins.data import DataSource
from harness.plugins.task import Example, Task

if TYPE_CHECKING:
    from harness.scoring.copying import SentencesKept


@dataclass(frozen=True)
class NanoSummary(Task):
    """200 test texts; the headline is the share of summaries that are exactly right."""

    version = 1
    source = "decodebench, harness/nano/corpus.py"
    headline = "exact"
    max_new_tokens = 128
    stop = ("\n",)

    def examples(self, data: DataSource) -> list[Example]:
        """Return the first 200 test texts."""
        return [Example(id=one.id, turns=one.turns, gold=one.check) for one in problems("summary", "test", 200)]

    def metric(self) -> "SentencesKept":
        """Return the metric, which compares the sentences with the reference."""
        from harness.scoring.copying import SentencesKept

        return SentencesKept()
