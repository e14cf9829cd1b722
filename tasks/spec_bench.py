"""Spec-Bench: six sub-tasks for measuring the speed of speculative decoding, for chat models.

A row:

    {"question_id": 161, "category": "translation",
     "turns": ["Translate German to English: Der Himmel ist heute blau."],
     "reference": ["The sky is blue today."]}

480 questions, 80 of each sub-task: `mt_bench` (the 80 of MT-Bench, whose eight categories are one sub-task here, two
turns), `translation` (WMT14, German to English), `summarization` (CNN/DM), `qa` (Natural Questions), `math_reasoning`
(GSM8K without examples) and `rag` (passages and a question), one turn each. `part` selects one sub-task; `--limit`
takes a question of each sub-task in turn.

As in the original, answers have at most 1,024 tokens and are not scored; `gold` has the references of the file, which
lacks those of qa and half of mt_bench. The original uses Vicuna's template, we use the model's own. Its "mean accepted
tokens" counts every step, our `tau_pooled` the steps after the first of each turn.
"""

from dataclasses import dataclass

from harness.plugins.data import TEXTS, DataSource, Download, Row
from harness.plugins.task import Example, Task, knob

HOME = Download(
    url="https://raw.githubusercontent.com/hemingkx/Spec-Bench/fd2c1cd7d2201ef71db4c5f4e455008f017967bf/"
        "data/spec_bench/question.jsonl",
    rows_sha256="aae4d26a8ecb3a49414e5bf58ad07b028fc87dd42aa4d6c34b9ee709467f8491",
)
FIELDS = {"question_id": int, "category": str, "turns": list[str]}
PARTS = ("mt_bench", "translation", "summarization", "qa", "math_reasoning", "rag")
OF_MT_BENCH = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
SUB_TASKS = dict.fromkeys(OF_MT_BENCH, PARTS[0])


@dataclass(frozen=True)
class SpecBench(Task):
    """480 questions, reported by sub-task."""

    part: str = knob("all", "the sub-task", choices=("all", *PARTS))

    version = 1
    source = "Xia et al. 2024, arXiv:2401.07851; Spec-Bench, Apache-2.0"
    headline = "score"
    max_new_tokens = 1024
    chat = True
    sub_tasks = SUB_TASKS
    unscored = "not scored"

    def examples(self, data: DataSource) -> list[Example]:
        """Return the questions of the part in published order."""
        rows = data.rows("spec_bench", "question.jsonl", HOME, FIELDS, optional={"reference": TEXTS},
                         key="question_id", check=_problem)
        return [
            Example(id=f"spec_bench/{row['question_id']}", turns=tuple(row["turns"]), category=row["category"],
                    gold={"reference": row.get("reference", [])})
            for row in rows if self.part in ("all", _part(row))
        ]


def _part(row: Row) -> str:
    category = str(row["category"])
    return SUB_TASKS.get(category, category)


def _problem(row: Row) -> str | None:
    known = (*OF_MT_BENCH, *PARTS[1:])
    return None if row["category"] in known else f"the category '{row['category']}' is none of {', '.join(known)}"
