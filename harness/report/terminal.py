"""Tables for a terminal of any width: names stay whole, and figures that do not fit are left out and named."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal, NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from harness.report.names import narrowest, wrapped

EDGES, GAP = 2, 2  # characters beside the table, and between two columns
LEAST = 4  # width to which a text column shrinks if not even the names fit

Justify = Literal["left", "right"]


class Head(NamedTuple):
    """The head of a column; `figure` is None for a text, which always shows, else its place among the figures.

    Figures show as far as they fit, those in the first places first; an `extra` one that does not fit is not missed.
    """

    title: str
    figure: int | None = None
    justify: Justify = "left"
    extra: bool = False


def figures(titles: Sequence[str], important: Sequence[str] = (), left: Sequence[str] = ()) -> list[Head]:
    """Return the heads of figures; the `important` ones come first in importance, `left` are aligned to the left."""
    order = [*important, *(title for title in titles if title not in important)]
    return [Head(title, order.index(title), "left" if title in left else "right") for title in titles]


class Row(NamedTuple):
    """A row with a cell for each column, and its style."""

    cells: list[Text]
    style: str | None


@dataclass
class FittedTable:
    """A table of text columns and figures, and the text above and below it."""

    heads: Sequence[Head]
    title: Text | None = None
    caption: Sequence[str] = ()
    rows: list[Row | None] = field(default_factory=list)

    def add(self, *cells: str | Text, style: str | None = None) -> None:
        """Add a row; missing cells are empty."""
        known = [cell if isinstance(cell, Text) else Text(cell) for cell in cells]
        self.rows.append(Row([*known, *(Text() for _ in range(len(self.heads) - len(cells)))], style))

    def end_section(self) -> None:
        """Leave a blank line below the last row."""
        self.rows.append(None)

    def stored(self) -> dict[str, Any]:
        """Return the table for JSON, from which `restored` makes it again."""
        rows = [row and {"cells": [cell.markup for cell in row.cells], "style": row.style} for row in self.rows]
        title = {"text": self.title.plain, "style": str(self.title.style)} if self.title else None
        return {"heads": list(self.heads), "title": title, "caption": list(self.caption), "rows": rows}

    @classmethod
    def restored(cls, stored: Mapping[str, Any]) -> "FittedTable":
        """Return the table that was `stored`."""
        title = stored["title"] and Text(stored["title"]["text"], style=stored["title"]["style"])
        rows = [row and Row([Text.from_markup(cell) for cell in row["cells"]], row["style"]) for row in stored["rows"]]
        return cls([Head(*head) for head in stored["heads"]], title, stored["caption"], rows)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the title, the columns that fit, the names of the others, and the caption."""
        shown = self._shown(options.max_width)
        if self.title:
            yield self.title
        yield self._table(shown, self._text_widths(shown, options.max_width))
        if missing := [head.title for index, head in enumerate(self.heads) if index not in shown and not head.extra]:
            yield Text(f"not shown at {options.max_width} columns: {', '.join(missing)}", style="dim")
        if self.caption:
            yield Text("\n".join(self.caption), style="table.caption")

    def _column(self, index: int) -> list[Text]:
        """Return the head and all cells of a column."""
        return [Text(self.heads[index].title), *(row.cells[index] for row in self.rows if row)]

    def _texts(self) -> list[int]:
        return [index for index, head in enumerate(self.heads) if head.figure is None]

    def _shown(self, width: int) -> list[int]:
        """Return the indices of all text columns, and of the figures that fit beside their longest words."""
        shown = self._texts()
        room = width - EDGES + GAP - sum(GAP + narrowest(self._column(index)) for index in shown)
        by_place = sorted((head.figure, index) for index, head in enumerate(self.heads) if head.figure is not None)
        for _, index in by_place:
            if (need := GAP + _longest_line(self._column(index))) <= room:
                shown.append(index)
                room -= need
        return sorted(shown)

    def _text_widths(self, shown: Sequence[int], width: int) -> dict[int, int]:
        """Return the widths of the text columns beside the figures shown; what is left over goes to the first ones."""
        texts = self._texts()
        widths = {index: narrowest(self._column(index)) for index in texts}
        room = width - EDGES - GAP * (len(shown) - 1) - sum(widths.values()) - sum(
            _longest_line(self._column(index)) for index in shown if index not in texts)
        for index in texts if room >= 0 else ():
            lines = [wrapped(cell, widths[index] + room) for cell in self._column(index)]
            more = min(room, _longest_line(lines) - widths[index])
            widths[index] += more
            room -= more
        parts = {index: narrowest(self._column(index), longest=0) for index in texts}
        for least, index in product((parts, dict.fromkeys(texts, LEAST)), reversed(texts)):  # names give way last
            less = min(max(0, -room), max(0, widths[index] - least[index]))
            widths[index] -= less
            room += less
        return widths

    def _table(self, shown: Sequence[int], widths: dict[int, int]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for index in shown:
            head = self.heads[index]
            title = Text(head.title) if head.figure is not None else wrapped(Text(head.title), widths[index])
            table.add_column(title, justify=head.justify, no_wrap=head.figure is not None, overflow="fold",
                             width=widths.get(index))
        for row in self.rows:
            if row is None:
                table.add_section()
            else:
                table.add_row(*(wrapped(row.cells[index], widths[index]) if index in widths else row.cells[index]
                                for index in shown), style=row.style)
        return table


def _longest_line(cells: Sequence[Text]) -> int:
    return max(cell_len(line) for cell in cells for line in cell.plain.split("\n"))
