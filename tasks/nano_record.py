"""Facts about a restaurant to put into sentences, written by the project for its embedded encoder-decoder model.

A problem, and an answer without an error:

    Facts: near[the museum], food[Thai], name[Blue Spice], seats[40]
    Text: Blue Spice is a Thai restaurant near the museum. It has 40 seats.

Problems come from `harness.nano.records`, from the split that the model was not trained on. They have five to eight
facts, and it was trained on six at most, so that it leaves some out. `faultless`, the headline, is the share of texts
that tell every fact once and no other; `missing`, `repeated` and `wrong` are the mean numbers of facts of each error.
SER, the slot error rate, is their sum over all texts in percent of all facts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

from harness.nano.corpus import RECORD, problems
from harness.nano.records import ASKED, PHRASES, slots, wanted
from harness.plugins.data import DataSource
from harness.plugins.task import Example, Task, knob
from harness.scoring.corpus import ERRORS
from harness.scoring.slots import slot_errors

if TYPE_CHECKING:
    from harness.scoring.facts import FactsOnly

DRAWN = 600


@dataclass(frozen=True)
class NanoRecord(Task):
    """200 problems; the headline is the share of texts without an error. It runs only where it is named."""

    split: str = knob("test", "the problems: test, or dev to fit a method's numbers on", choices=("test", "dev"))

    version = 1
    source = "decodebench, harness/nano/records.py"
    headline = "faultless"
    max_new_tokens = 128
    stop = ("\n",)
    corpus: ClassVar[dict[str, str]] = {"ser": ERRORS}

    def examples(self, data: DataSource) -> list[Example]:
        """Return the first 200 problems of the split with enough facts."""
        enough = (one for one in problems(RECORD, self.split, DRAWN) if len(slots(one)) >= ASKED)
        return [Example(id=one.id, turns=one.turns, gold=one.check) for one in islice(enough, 200)]

    def wanted(self, example: Example) -> tuple[tuple[str, ...], ...]:
        """Return the phrases of each fact, for methods that take constraints."""
        return tuple(wanted(name, value) for name, value in example.gold["slots"])

    def metric(self) -> "FactsOnly":
        """Return the metric, which looks for the facts."""
        from harness.scoring.facts import FactsOnly

        return FactsOnly()

    def sums(self, example: Example, answers: Sequence[str]) -> dict[str, list[int]]:
        """Return the errors and the facts."""
        facts = example.gold["slots"]
        return {"ser": [sum(slot_errors(answers[-1], facts, PHRASES)), len(facts)]}
