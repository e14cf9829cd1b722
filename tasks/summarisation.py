"""Articles to summarise, from a file of your own such as a test set of XSum or CNN/DailyMail.

A row of `xsum/test.jsonl` or `cnn_dailymail/test.jsonl` below the data folder (articles are shortened here):

    {"document": "The bridge over the Ems was closed on Monday ...", "summary": "A bridge is closed.", "id": "352"}
    {"article": "Two hikers were found ...", "highlights": "Two hikers are safe .\\nA third waited .", "id": "42c0"}

`-t summarisation:part=cnn_dailymail` reads the second kind, and `file` names another file of the part's fields (.jsonl,
.csv, .parquet). The question is the article and `Summary:` on a line of its own; T5 wants `prefix=summarize:` in its
place, and models that were trained on articles alone, such as BART's, `form=source`.

The scores are the F1 of ROUGE-1, ROUGE-2 and ROUGE-Lsum, 0 to 1, of the package rouge-score with its stemmer, for
English. Lines count as sentences, as in the references of CNN/DailyMail. Answers are not split into sentences, so
ROUGE-Lsum of a summary in one line is usually lower than in papers that split it. A summary as text ends with an empty
line.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.plugins.data import DataSource, checked
from harness.plugins.plugin import per_instance
from harness.plugins.source_task import SourceTask
from harness.plugins.task import Example, knob
from harness.plugins.task_file import numbered_rows

if TYPE_CHECKING:
    from harness.scoring.references import Summarised

FIELDS = {"xsum": ("document", "summary"), "cnn_dailymail": ("article", "highlights")}


@dataclass(frozen=True)
class Summarisation(SourceTask):
    """The headline is the mean F1 of ROUGE-Lsum."""

    part: str = knob("xsum", "the data set whose fields the rows have", choices=tuple(FIELDS))
    file: str = knob("", "a file of rows [PART/test.jsonl]")

    version = 1
    source = "the user's own file; ROUGE (Lin 2004) of the package rouge-score"
    headline = "rouge_lsum"
    max_new_tokens = 128
    stop = per_instance((), lambda task: ("\n\n",) if task.form == "text" and not task.prefix else ())

    def examples(self, data: DataSource) -> list[Example]:
        """Return the articles in the order of the file."""
        path, (article, summary) = data.file(Path(self.file or f"{self.part}/test.jsonl")), FIELDS[self.part]
        data.origins[self.spec()] = str(path)
        numbered, unit = numbered_rows(path)
        rows = checked(numbered, str(path), {article: str, summary: str, "id": str}, key="id", unit=unit)
        return [Example(id=f"{self.part}/{row['id']}",
                        turns=(self.asked(row[article], f"{row[article].strip()}\n\nSummary:"),),
                        gold={"references": [row[summary]]}) for row in rows]

    def metric(self) -> "Summarised":
        """Return the metric, which compares words with those of the reference."""
        from harness.scoring.references import Summarised

        return Summarised()
