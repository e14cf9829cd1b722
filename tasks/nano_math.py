"""Short word problems in the format of GSM8K, written by the project for its embedded models.

A problem, and its reference answer:

    Question: Sam has 13 balloons. Kate has 3 times as many. How many balloons does Kate have?
    Answer: Kate has 3 * 13 = 39 balloons.
    #### 39

Problems come from `harness.nano.corpus`, from the split that the models were not trained on. Scores are those of
`gsm8k_5shot`: `strict` and `original` require the number after `####`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.nano.corpus import problems
from harness.plugins.data import DataSource
from harness.plugins.task import Example, Task

if TYPE_CHECKING:
    from harness.scoring.metrics import GSM8KAnswer


@dataclass(frozen=True)
class NanoMath(Task):
    """200 test problems; the headline is the share whose last number is right."""

    version = 1
    source = "decodebench, harness/nano/corpus.py"
    headline = "flexible"
    max_new_tokens = 160
    stop = ("\nQuestion:",)

    def examples(self, data: DataSource) -> list[Example]:
        """Return the first 200 test problems."""
        return [Example(id=one.id, turns=one.turns, gold=one.check) for one in problems("math", "test", 200)]

    def answer(self, example: Example, text: str) -> str | None:
        """Return the last number."""
        from harness.scoring.metrics import GSM8KAnswer

        return GSM8KAnswer.last_number(text)

    def metric(self) -> "GSM8KAnswer":
        """Return the metric of GSM8K."""
        from harness.scoring.metrics import GSM8KAnswer

        return GSM8KAnswer()
