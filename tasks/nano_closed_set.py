"""Spoilt passages whose right text is one of 2,000 known ones, written by the project for its embedded models.

A problem, its reference answer, and two other passages of the set:

    Text: Ivan finded a blue poster in the valley.
    Corrected: Ivan found a blue poster in the valley.

    Mia found a blue kite in the forest.
    The wolf ate three shells and a bun in the kitchen.

The problems are those of `nano_edit`; the set is their right texts and others of the same kind. A strategy that writes
nothing but passages of a set, as SEAL does with a corpus (Bevilacqua et al. 2022, arXiv:2204.10628), gets the set as
`RequestText.parts`. For others the answer is looked up: `hit` is 1 for the right passage word for word, `inside` for
any passage of the set. `mrr` is one over the rank of the right passage by BM25 of the answer, and `mrr_query` the same
of the spoilt text itself, which no strategy changes: the control of retrieval without a model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.nano.closed_set import passages
from harness.nano.corpus import problems
from harness.plugins.data import DataSource
from harness.plugins.prompt_parts import PromptParts
from harness.plugins.task import Example, Task, knob

if TYPE_CHECKING:
    from harness.scoring.copying import PassageFound


@dataclass(frozen=True)
class NanoClosedSet(Task):
    """200 spoilt passages; the headline is the share of answers that are the right passage."""

    passages: int = knob(2000, "passages of the set", low=200, high=100_000, sweep=(200, 2000))
    near: bool = knob(False, "as many passages again that differ from these by one word", sweep=(False, True))

    version = 1
    source = "decodebench, harness/nano/corpus.py"
    headline = "hit"
    max_new_tokens = 160
    stop = ("\n",)

    def examples(self, data: DataSource) -> list[Example]:
        """Return the first 200 test passages."""
        return [Example(id=one.id.replace("edit", "closed"), turns=one.turns,
                        gold={**one.check, "query": one.turns[0].removeprefix("Text: ").rpartition("\n")[0],
                              "passages": self.passages, "near": self.near})
                for one in problems("edit", "test", 200)]

    def parts(self, example: Example, answers: Sequence[str]) -> PromptParts:
        """Return the passages."""
        return PromptParts(passages=passages(self.passages, self.near))

    def metric(self) -> "PassageFound":
        """Return the metric, which looks for the answer in the set."""
        from harness.scoring.copying import PassageFound

        return PassageFound()
