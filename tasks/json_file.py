"""Your own prompts whose answers are JSON, without code: each row of a file has a prompt, a schema and the object.

A row of a JSONL file:

    {"prompt": "Text: Tom has 3 cats.\\nJSON:\\n", "schema": {"type": "object", "properties": {"cats": {"type":
    "integer"}}, "required": ["cats"]}, "answer": {"cats": 3}}

`-t json_file:file=my.jsonl`. `question` in place of `prompt` is what a user asks, in the model's chat template. Without
`schema` any JSON is valid. Without `answer` only validity is scored, which is the headline if no row has an answer.
`id` (otherwise rows are counted from 1) and `category` are optional. Only `json_schema` is told the schema; the prompt
has to say what other strategies need to know.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.plugins.data import DataSource, Row, checked, read_jsonl
from harness.plugins.plugin import per_instance
from harness.plugins.task import Example, Message, Task, knob
from harness.plugins.task_file import own_name

if TYPE_CHECKING:
    from harness.scoring.json_answers import JsonAnswer

FIELDS = {"prompt": str, "question": str, "schema": dict, "answer": dict | list, "category": str}


@dataclass(frozen=True)
class JsonFile(Task):
    """The headline is the share of answers that are the expected object, or that are valid if none is expected."""

    file: str = knob("", "a JSONL file, perhaps gzipped", file=True)

    version = 1
    source = "the user's own file"
    headline = per_instance("exact", lambda task: "exact" if any("answer" in row for row in task._rows) else "valid")
    max_new_tokens = 256
    chat = per_instance(False, lambda task: any("question" in row for row in task._rows))

    @cached_property
    def _rows(self) -> list[Row]:
        path = Path(self.file)
        return checked(_counted(read_jsonl(path)), self.file, {"id": str}, optional=FIELDS, key="id", check=_wrong) \
            if self.file else []

    def examples(self, data: DataSource) -> list[Example]:
        """Return the problems in the order of the file."""
        if not self.file:
            raise UserError("json_file needs a file: -t json_file:file=FILE.jsonl")
        data.origins[self.spec()] = self.file
        name = own_name(Path(self.file))
        return [Example(id=f"{name}/{row['id']}", turns=(row.get("prompt") or row["question"],),
                        gold={key: row[key] for key in ("prompt", "schema", "answer") if key in row},
                        category=row.get("category", "")) for row in self._rows]

    def prompt(self, example: Example, answers: Sequence[str]) -> str | list[Message]:
        """Return the raw prompt, or the question as a chat."""
        raw: str = example.gold.get("prompt", "")
        return raw or [{"role": "user", "content": example.turns[0]}]

    def schema(self, example: Example) -> str:
        """Return the schema of the row."""
        return json.dumps(example.gold["schema"]) if "schema" in example.gold else ""

    def expected(self, example: Example) -> str:
        """Return the expected object as text."""
        return json.dumps(example.gold["answer"], ensure_ascii=False) if "answer" in example.gold else ""

    def metric(self) -> "JsonAnswer":
        """Return the metric, which checks the schema and compares with the expected object."""
        from harness.scoring.json_answers import JsonAnswer

        return JsonAnswer()


def _counted(rows: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """Yield the rows with a count from 1 as id where they have none."""
    for count, (number, row) in enumerate(rows, 1):
        yield number, {"id": str(count), **row} if isinstance(row, dict) else row


def _wrong(row: Row) -> str | None:
    """Return the error of a row, else None."""
    from harness.scoring.json_schema import fits, problem  # here, because not every command needs the library

    if ("prompt" in row) == ("question" in row):
        return "give one of 'prompt' and 'question'"
    if not (row.get("prompt") or row.get("question") or "").strip():
        return "the prompt is empty"
    if found := problem(row.get("schema", True)):
        return found
    both = {"answer", "schema"} <= row.keys()
    return "the answer does not fit the schema" if both and not fits(row["answer"], row["schema"]) else None
