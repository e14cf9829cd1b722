"""Short Python functions from a description and three tests (MBPP), from a file that you provide.

A row:

    {"task_id": 11, "text": "Write a function to double a number.", "code": "def double(x):\\n    return 2 * x",
     "test_list": ["assert double(1) == 2", "assert double(0) == 0", "assert double(-1) == -2"],
     "test_setup_code": "", "challenge_test_list": []}

`DIR/mbpp/mbpp.jsonl` is the release of Google Research; its test problems are those numbered 11 to 510. The rows of the
sanitised release (`prompt` in place of `text`, and `test_imports`) are read as well, one a line. Prompt, worked
examples (problems 2 to 4, CC BY 4.0) and stop string are those of `mbpp` in lm-evaluation-harness, which prints three
tests and allows 256 new tokens, as we do. The set-up code of a row runs before its tests, as in the paper but not in
lm-evaluation-harness; tests can use the imports of the reference solution. Programs may use the standard library only.
"""

import ast
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.plugins.data import DataSource, Row
from harness.plugins.task import Example, Task

if TYPE_CHECKING:
    from harness.scoring.metrics import CodePasses

EXAMPLES = Path(__file__).parent / "data" / "mbpp_examples.json"
FIELDS = {"task_id": int, "text": str, "code": str, "test_list": list[str]}
OPTIONAL = {"test_setup_code": str, "test_imports": list[str]}
FIRST, LAST = 11, 510
SHOWN = 3  # tests in the prompt


@dataclass(frozen=True)
class MBPP(Task):
    """500 problems; the headline is the share of programs that pass."""

    version = 1
    source = "Austin et al. 2021, arXiv:2108.07732; google-research, CC BY 4.0"
    headline = "pass"
    max_new_tokens = 256
    stop = ("[DONE]",)
    executes_code = True

    def examples(self, data: DataSource) -> list[Example]:
        """Return the test problems in the order of the file."""
        rows = data.rows("mbpp", "mbpp.jsonl", None, FIELDS, optional=OPTIONAL, key="task_id", check=_problem,
                         fill=_filled)
        return [
            Example(id=f"mbpp/{row['task_id']}", turns=(_prompt(row),), gold=_gold(row))
            for row in rows if FIRST <= row["task_id"] <= LAST
        ]

    def prompt(self, example: Example, answers: Sequence[str]) -> str:
        """Return the three worked examples, then the problem."""
        return f"{_worked_examples()}{example.turns[0]}"

    def metric(self) -> "CodePasses":
        """Return the metric, which runs the program and its tests."""
        from harness.scoring.metrics import CodePasses

        return CodePasses()


def _prompt(row: Row) -> str:
    tests = "\n".join([*row["test_list"], *[""] * SHOWN][:SHOWN])
    return (f"You are an expert Python programmer, and here is your task: {row['text']} "
            f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n")


@functools.cache
def _worked_examples() -> str:
    rows = json.loads(EXAMPLES.read_text(encoding="utf-8"))
    return "".join(f"{_prompt(row)}{row['code']}\n[DONE]\n\n" for row in rows)


def _filled(row: Row) -> Row:
    """Convert a row of either release to the format of the first, with defaults for missing fields."""
    text = row.get("text", row.get("prompt"))
    return {"test_setup_code": "", "test_imports": [], **row} | ({} if text is None else {"text": text})


def _problem(row: Row) -> str | None:
    try:
        ast.parse("\n".join([*row["test_imports"], row["code"], row["test_setup_code"], *row["test_list"]]))
    except (SyntaxError, ValueError) as error:
        return f"the code and its tests are not valid Python ({error})"
    return None


def _gold(row: Row) -> dict[str, str | list[str]]:
    """Return the tests, their imports, and the names that the program must define."""
    top = ast.parse(row["code"]).body
    imports = [ast.unparse(node) for node in top if isinstance(node, ast.Import | ast.ImportFrom)]
    own = [node.name for node in top if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return {"prompt": "", "setup": "\n".join([*row["test_imports"], *imports]), "own": own,
            "test": "\n".join([row["test_setup_code"], *row["test_list"]])}
