"""Facts about a restaurant to put into sentences, from the user's file of the E2E challenge.

A row of `e2e/testset_w_refs.csv` below the data folder, whose first line is `mr,ref`:

    "name[Blue Spice], eatType[coffee shop], area[city centre]",A coffee shop in the city centre called Blue Spice.

Rows with equal `mr` are references of one problem. `file` names another file (.csv, .jsonl, .parquet). The question:

    Facts: name[Blue Spice], eatType[coffee shop], area[city centre]
    Write them in one or two sentences.
    Text:

`faultless`, the headline, is the share of texts that name every slot once and no other; `missing`, `repeated` and
`wrong` are the mean numbers of slots of each error. SER, the slot error rate, is their sum over all texts in percent of
all slots. Slots are recognised by phrases of ours (`harness/scoring/slots.py`), so compare methods with each other and
not with published rates. BLEU and chrF, of the whole corpus and of a text, are those of the task `translation`, and
count the references of a problem together.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from harness.plugins.data import DataSource, Row, checked
from harness.plugins.plugin import per_instance
from harness.plugins.source_task import SourceTask
from harness.plugins.task import Example, knob
from harness.plugins.task_file import numbered_rows
from harness.scoring.corpus import ERRORS, TOKENIZERS, signatures, statistics
from harness.scoring.slots import RESTAURANTS, slot_errors

if TYPE_CHECKING:
    from harness.scoring.references import FactsTold

SLOT = re.compile(r"\s*([\w ]+?)\s*\[\s*([^\[\]]*[^\[\]\s])\s*\]\s*(?:,|$)")


@dataclass(frozen=True)
class E2E(SourceTask):
    """The headline is the share of texts without a slot error."""

    file: str = knob("", "a file of rows [e2e/testset_w_refs.csv]")

    version = 1
    source = "Novikova et al. 2017, arXiv:1706.09254; the user's own file"
    headline = "faultless"
    max_new_tokens = 128
    corpus: ClassVar[dict[str, str]] = per_instance({}, lambda task: {**signatures(references=None), "ser": ERRORS})

    def examples(self, data: DataSource) -> list[Example]:
        """Return each different `mr` with its references, in the order of the file."""
        path = data.file(Path(self.file or "e2e/testset_w_refs.csv"))
        data.origins[self.spec()] = str(path)
        numbered, unit = numbered_rows(path)
        references = dict[str, list[str]]()
        for row in checked(numbered, str(path), {"mr": str, "ref": str}, check=_wrong, unit=unit):
            references.setdefault(row["mr"].strip(), []).append(row["ref"].strip())
        question = "Facts: {}\nWrite them in one or two sentences.\nText:"
        return [Example(id=f"e2e/{number}", turns=(self.asked(facts, question.replace("{}", facts)),),
                        gold={"references": texts, "slots": _slots(facts), "tokenizer": TOKENIZERS[0]})
                for number, (facts, texts) in enumerate(references.items(), 1)]

    def metric(self) -> "FactsTold":
        """Return the metric, which looks for the slots and compares with the references."""
        from harness.scoring.references import FactsTold

        return FactsTold()

    def sums(self, example: Example, answers: Sequence[str]) -> dict[str, list[int]]:
        """Return the statistics of BLEU and chrF, and the slot errors and slots."""
        slots = example.gold["slots"]
        return {**statistics(answers[-1].strip(), example.gold["references"]),
                "ser": [sum(slot_errors(answers[-1], slots, RESTAURANTS)), len(slots)]}


def _slots(facts: str) -> list[list[str]]:
    return [list(one) for one in SLOT.findall(facts)]


def _wrong(row: Row) -> str | None:
    if SLOT.sub("", row["mr"]).strip():
        return "the field 'mr' must be slots with their values, such as name[Blue Spice], food[Thai]"
    names = [name for name, _ in _slots(row["mr"])]
    return None if len(set(names)) == len(names) else "the field 'mr' has a slot twice"
