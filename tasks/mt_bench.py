"""Open questions in two turns, from writing to mathematics (MT-Bench), for chat models.

A row:

    {"question_id": 81, "category": "writing",
     "turns": ["Write a short letter to a friend.", "Now make it rhyme."]}

80 questions in 8 categories, which `--limit` takes in turn; the prompt of the second turn includes the model's first
answer. The strategy decides the temperature, because FastChat's temperatures by category would replace the strategy
under test. A run has no score: `decodebench judge` rates its answers afterwards. The copy on the hub has no question
numbers; its rows are in the order of the questions 81 to 160.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.plugins.data import DataSource, Hub, Row
from harness.plugins.task import NO_JUDGE, Example, Task

FIELDS = {"question_id": int, "category": str, "turns": list[str]}


def _from_hub(index: int, row: Row) -> Row:
    return {"question_id": 81 + index, "category": row.get("category"), "turns": row.get("prompt")}


HUB = Hub(
    repo="HuggingFaceH4/mt_bench_prompts",
    config=None,
    split="train",
    revision="e3a795c5e9a82ee40611c416b8a7786c73198991",
    rows_sha256="dd1c745ef3e712d4b125048d465192acc8852021977602daf4676daa0f452910",
    adapt=_from_hub,
)


@dataclass(frozen=True)
class MTBench(Task):
    """80 questions of two turns, with their categories."""

    version = 1
    source = "Zheng et al. 2023, arXiv:2306.05685; lm-sys/FastChat, Apache-2.0"
    headline = "score"
    max_new_tokens = 1024
    chat = True
    sub_tasks: ClassVar[dict[str, str] | None] = {}  # each category is one
    open_ended = True
    unscored = NO_JUDGE

    def examples(self, data: DataSource) -> list[Example]:
        """Return the questions in published order."""
        rows = data.rows("mt_bench", "question.jsonl", HUB, FIELDS, key="question_id", check=_problem)
        return [
            Example(id=f"mt_bench/{row['question_id']}", turns=tuple(row["turns"]), category=row["category"])
            for row in rows
        ]


def _problem(row: Row) -> str | None:
    return None if row["turns"] else "there is no turn"
