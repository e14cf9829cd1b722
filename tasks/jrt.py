"""Values to find in a document, from the data with which Just Read Twice was measured (FDA, SWDE, Natural Questions).

A row of `jrt/fda.jsonl` below the data folder (`text` is shortened here):

    {"text": "510(k) summary ... sponsor Bionic Ltd. Model BX-2 ...\\nApplicant:", "key": "Applicant", "value": "Bionic
     Ltd."}

`-t jrt:part=fda` reads the rows of `hazyresearch/based-fda`; `swde` those of `based-swde-v2`, and `nq_512`, `nq_1024`
and `nq_2048` those of the three lengths of `based_nq`, all as JSON with a row a line. The prompt is the text, which
ends where the value of the key follows; if it does not end with the key and a colon, these are added on a line of
their own. The answer ends with its line, at most 48 tokens, and is right if it contains the value in any letter case,
as published. `-s read_twice` repeats the document (Arora et al. 2024, arXiv:2407.05483). The fields of `swde` and `nq`
were not compared with the published files.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.plugins.data import DataSource, Row
from harness.plugins.task import Example, Task, knob

if TYPE_CHECKING:
    from harness.scoring.long_texts import Contains

PARTS = ("fda", "swde", "nq_512", "nq_1024", "nq_2048")


@dataclass(frozen=True)
class Jrt(Task):
    """The rows of one data set; the headline is the share of answers that contain the value."""

    part: str = knob("fda", "one of the data sets", choices=PARTS, sweep=PARTS)

    version = 1
    source = "HazyResearch/prefix-linear-attention, arXiv:2407.05483"
    headline = "recall"
    max_new_tokens = 48
    stop = ("\n",)

    def examples(self, data: DataSource) -> list[Example]:
        """Return the rows in the order of the file."""
        rows = data.rows("jrt", f"{self.part}.jsonl", None, {"text": str, "key": str, "value": str})
        return [Example(id=f"{self.part}/{number}", turns=(_prompt(row),),
                        gold={"values": [row["value"]], "rule": "all"}) for number, row in enumerate(rows)]

    def metric(self) -> "Contains":
        """Return the metric, which looks for the value in the answer."""
        from harness.scoring.long_texts import Contains

        return Contains()


def _prompt(row: Row) -> str:
    text, cue = row["text"].rstrip(), f"{row['key']}:"
    return text if text.lower().endswith(cue.lower()) else f"{text}\n{cue}"
