"""Your own task without code: each row of a file has a question and, if it is to be scored, its answer and a checker.

A row of a JSONL file:

    {"question": "What is the capital of France?", "answer": "Paris", "checker": "contains"}

`--task-file my.jsonl` is short for `-t task_file:file=my.jsonl`; tables call the task `my`. A row has one of

    question  what a user asks, in the model's chat template
    turns     several questions; the model's own answers stand between them
    messages  the chat so far; an assistant's message at its end is written anew
    prompt    raw text, which the model continues as it is, without a chat template

(`question` beside one of the others is ignored.) `answer` is a string, a number, or a list of alternatives. A row
without an answer is measured for speed, and its text is shown. `id` (otherwise rows are counted from 1), `category` and
`reference` (the original continuation) are optional; other fields are ignored. For models that read images, a
row may have an `image`, a path from the folder of the file, which comes first or where the text says <image>. The
checkers:

    exact     the whole answer, without white space at its ends (the default)
    contains  the answer contains it
    regex     this pattern matches somewhere in the answer
    number    the last number of the answer is equal: 1,200.0 is 1200
    choice    the capital letter that the answer chooses
    code      these tests pass on the function `entry_point`; a program is the prompt and the answer, or the last
              fenced block of a chat's answer
    none      nothing is scored (the default without an answer)

A first row {"task": {"checker": "number", "max_new_tokens": 64, "stop": ["\\n"]}} has the defaults of all rows;
`open_ended` and `sub_tasks` are allowed too. The knob `checker` goes before the header's, a row's own before both.

Other files: CSV (the first line names the columns) and Parquet, whose columns are these fields, and plain text (.txt,
.text, .md, or a first line that does not start with a brace), in which each line is a question.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from harness.errors import UserError
from harness.plugins.data import DataSource, Row
from harness.plugins.image_rows import WITH_IMAGES
from harness.plugins.plugin import per_instance
from harness.plugins.task import Example, Message, Task, knob
from harness.plugins.task_file import CHECKERS, read

if TYPE_CHECKING:
    from harness.scoring.answers import CheckedAnswer


@dataclass(frozen=True)
class TaskFile(Task):
    """The headline is the share of problems whose (last) answer the checker accepts."""

    file: str = knob("", "a JSONL, CSV, Parquet or text file, perhaps gzipped")
    checker: str = knob("", "checker of rows that name none [the header's, else exact, or none without an answer]",
                        choices=CHECKERS)

    version = 3
    source = "the user's own file"
    headline = "correct"
    max_new_tokens = per_instance(256, lambda task: task._header.get("max_new_tokens", 256))
    stop: ClassVar[tuple[str, ...]] = per_instance((), lambda task: task._header.get("stop", ()))
    open_ended = per_instance(False, lambda task: task._header.get("open_ended", False))
    sub_tasks: ClassVar[dict[str, str] | None] = per_instance(
        None, lambda task: {} if task._header.get("sub_tasks") else None)
    executes_code = per_instance(False, lambda task: "code" in task._checkers)
    chat = per_instance(False, lambda task: not all(one.gold["prompt"] for one in task._read[1]))
    unscored: ClassVar[str | None] = per_instance(
        None, lambda task: None if task._checkers != {"none"} else
        "no checker" if any(one.gold["answer"] for one in task._read[1]) else "no answers")

    def __post_init__(self) -> None:
        """Read the file: it decides what kind of task this is."""
        super().__post_init__()
        _ = self._read

    @cached_property
    def _read(self) -> tuple[Row, list[Example]]:
        return read(Path(self.file), self.checker) if self.file else ({}, [])

    @property
    def _header(self) -> Row:
        return self._read[0]

    @property
    def _checkers(self) -> set[str]:
        return {one.gold["checker"] for one in self._read[1]}

    def examples(self, data: DataSource) -> list[Example]:
        """The problems in the order of the file."""
        if not self.file:
            raise UserError("task_file needs a file: --task-file FILE.jsonl")
        problems, checkers = self._read[1], sorted(self._checkers)
        images = WITH_IMAGES if any(one.images for one in problems) else ""
        data.origins[self.spec()] = f"{self.file}, checker {' and '.join(checkers)}{images}"
        if len(checkers) > 1 and (count := sum(one.gold["checker"] == "none" for one in problems)):
            data.warnings.append(f"{self.file}: {count} of {len(problems)} rows have no score, because they have no "
                                 "answer or the checker none.")
        return list(problems)

    def prompt(self, example: Example, answers: Sequence[str]) -> str | list[Message]:
        """Return the raw prompt, the messages, or the turns as a chat with the model's own answers."""
        messages: list[Message] = example.gold.get("messages", [])
        return example.gold["prompt"] or messages or super().prompt(example, answers)

    def answer(self, example: Example, text: str) -> str | None:
        """Return the number or the letter that is checked, else the whole answer."""
        from harness.scoring.answers import final_answer

        return final_answer(example.gold["checker"], text)

    def metric(self) -> "CheckedAnswer | None":
        """Checks each answer as its row says."""
        from harness.scoring.answers import CheckedAnswer

        return None if self.unscored else CheckedAnswer()
