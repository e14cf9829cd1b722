"""Names of strategies and tasks in tables of the terminal, which wrap between words and never inside one."""

import re
from collections.abc import Iterable

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

WORD = re.compile(r"[^ ]+ ?")
PART = re.compile(r"[^ ,:_=+/-]*[ ,:_=+/-]|[^ ,:_=+/-]+")  # lines may end after each of these signs
LONGEST = 16  # characters of a part that is never broken


class Name:
    """A name that fits its column: a line ends at a space or, if a word is longer, after one of `,:_=+/-`."""

    def __init__(self, text: str, style: str = "", note: str = "") -> None:
        self.text, self.style, self.note = text, style, note

    @classmethod
    def of_strategy(cls, label: str, note: str = "") -> "Name":
        """Return the name of a strategy with spaces between its knobs, and a red note on a line of its own."""
        return cls(label.replace(":", " ", 1).replace(",", " "), note=note)

    @property
    def narrowest(self) -> int:
        """The width of the longest part."""
        return min(LONGEST, max((cell_len(part.rstrip()) for part in PART.findall(self.text)), default=0))

    def wrapped(self, width: int) -> str:
        """Return the text with line ends, so that no line has more than `width` characters."""
        lines = [""]
        for word in WORD.findall(self.text):
            for part in [word] if cell_len(word.rstrip()) <= width else PART.findall(word):
                if lines[-1] and cell_len(lines[-1] + part.rstrip()) > width:
                    lines.append("")
                lines[-1] += part
        return "\n".join(line.rstrip() for line in lines)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Return the narrowest and the full width."""
        return Measurement(self.narrowest, max(cell_len(self.text), cell_len(self.note)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the wrapped text, then the note."""
        yield Text(self.wrapped(options.max_width), style=self.style, overflow="fold")
        if self.note:
            yield Text(self.note, style="red")


def add_column(table: Table, names: Iterable[Name]) -> None:
    """Add the column of these strategies to a table, wide enough for the longest part of a name."""
    table.add_column("strategy", min_width=max([12, *(name.narrowest for name in names)]))
