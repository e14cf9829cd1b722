"""The texts that drafters learn from before a run: the embedded training corpus, or the user's own files."""

from collections.abc import Sequence
from pathlib import Path

from harness.errors import UserError
from harness.nano.corpus import KINDS, problems
from harness.nano.documents import parts
from harness.plugins.data import read_jsonl

OF_A_KIND = 200  # texts of each kind


def corpus(kinds: Sequence[str] = KINDS, count: int = OF_A_KIND, split: str = "train") -> list[str]:
    """Return texts of the embedded corpus, `count` of each kind; a larger count begins with the same texts."""
    return ["".join(piece for piece, _ in parts(problem, kind)) for kind in kinds
            for problem in problems(kind, split, count)]


def given(path: Path) -> list[str]:
    """Return the texts of a file or of all files of a folder; raises `UserError` when there are none.

    Each row of a .jsonl file is one text: its string values, one a line.
    """
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    try:
        texts = [text for file in files for text in _texts(file) if text.strip()]
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}.") from error
    if not texts:
        raise UserError(f"{path} contains no text; pass a file or a folder of texts with --texts.")
    return texts


def _texts(file: Path) -> list[str]:
    if not file.name.endswith((".jsonl", ".jsonl.gz")):
        return [file.read_text(errors="replace")]
    rows = [row for _, row in read_jsonl(file) if isinstance(row, dict)]
    return ["\n".join(value for value in row.values() if isinstance(value, str)) for row in rows]
