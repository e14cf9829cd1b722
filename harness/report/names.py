"""Names in tables of the terminal, whose lines end between words or after a sign, and never inside a word."""

import re
from collections.abc import Iterable, Iterator

from rich.cells import cell_len
from rich.text import Text

from harness.report.families import look

WORD = re.compile(r"\S*\s+|\S+")
PART = re.compile(r"[^\s,:;>_=+/-]*[\s,:;>_=+/-]|[^\s,:;>_=+/-]+")  # long words may end a line after these signs
LONGEST = 18  # characters of a word that stays whole wherever the table has room for it


def of_strategy(label: str, note: str = "", family: str = "") -> Text:
    """Return the label of a strategy with spaces between its knobs, and a red note on a line of its own.

    The label has the colour of its family if that is given.
    """
    name = label.replace(":", " ", 1).replace(",", " ")
    return Text.assemble((name, look(family).colour if family else ""), (f"\n{note}" if note else "", "red"))


def narrowest(cells: Iterable[Text], longest: int = LONGEST) -> int:
    """Return the width at which words up to `longest` characters stay whole, and longer ones break after signs."""
    pieces = (piece for cell in cells for piece in _pieces(cell.plain, longest))
    return min(LONGEST, max((cell_len(piece.rstrip()) for piece in pieces), default=0))


def wrapped(text: Text, width: int) -> Text:
    """Return the text in lines of at most `width` characters, except where a part of a word is longer."""
    lines = list[Text]()
    for line in text.split("\n"):
        cuts, start, used = list[int](), 0, 0
        for piece in _pieces(line.plain, width):
            if used and used + cell_len(piece.rstrip()) > width:
                cuts.append(start)
                used = 0
            start += len(piece)
            used += cell_len(piece)
        lines += line.divide(cuts)
    for line in lines:
        line.rstrip()
    return Text("\n").join(lines)


def _pieces(text: str, width: int) -> Iterator[str]:
    """Yield the words with the spaces after them, and the parts of those words that are wider than `width`."""
    for word in WORD.findall(text):
        yield from [word] if cell_len(word.rstrip()) <= width else PART.findall(word)
