"""The next line of a file, given parts of other files of its repository (RepoBench-C).

A row of `repobench/python_cross_file_first.jsonl` below the data folder (`context` and `code` are shortened here):

    {"file_path": "app/main.py", "context": "# Path: app/pool.py\\n# class Pool: ...", "import_statement": "from pool
     import Pool", "code": "def start():\\n    ", "next_line": "pool = Pool(4)"}

`-t repobench:part=python_cross_file_first` reads the file of that name; parts are named after language and setting.
The authors publish pickled files with these fields: write one row a line. The prompt is theirs: context, path of the
file, imports, an empty line, and the code. `exact` compares the first line of the answer without regard to white space,
`similarity` is its edit similarity, 0 to 1. `-t longbench:part=repobench-p` has rows of LongBench with retrieved
context.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.plugins.data import DataSource, Row
from harness.plugins.task import Example, Task, knob

if TYPE_CHECKING:
    from harness.scoring.long_texts import NextLine

PARTS = tuple(f"{language}_{setting}" for language in ("python", "java")
              for setting in ("cross_file_first", "cross_file_random", "in_file"))


@dataclass(frozen=True)
class RepoBench(Task):
    """The rows of one language and setting; the headline is the share of exact lines."""

    part: str = knob("python_cross_file_first", "language and setting", choices=PARTS, sweep=PARTS)

    version = 1
    source = "Liu et al. 2023, arXiv:2306.03091; Leolty/repobench"
    headline = "exact"
    max_new_tokens = 64

    def examples(self, data: DataSource) -> list[Example]:
        """Return the rows in the order of the file."""
        rows = data.rows("repobench", f"{self.part}.jsonl", None, {
            "file_path": str, "context": str, "import_statement": str, "code": str, "next_line": str})
        return [Example(id=f"{self.part}/{number}", turns=(self._prompt(row),), gold={"text": row["next_line"]})
                for number, row in enumerate(rows)]

    def metric(self) -> "NextLine":
        """Return the metric, which compares lines."""
        from harness.scoring.long_texts import NextLine

        return NextLine()

    def _prompt(self, row: Row) -> str:
        sign = "//" if self.part.startswith("java") else "#"
        return f"{row['context']}\n{sign} Path: {row['file_path']}\n{row['import_statement']}\n\n{row['code']}"
