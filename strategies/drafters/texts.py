"""The texts that drafters learn from before a run: the embedded training corpus, or the user's own files."""

from pathlib import Path

from harness.errors import UserError
from harness.nano.corpus import KINDS, problems
from harness.nano.documents import parts

OF_A_KIND = 200


def corpus() -> list[str]:
    """The training texts of the embedded corpus, OF_A_KIND of every kind."""
    return ["".join(piece for piece, _ in parts(problem, kind)) for kind in KINDS
            for problem in problems(kind, "train", OF_A_KIND)]


def given(path: Path) -> list[str]:
    """What is in a file, or in all files of a folder; raises `UserError` when that is nothing."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    try:
        texts = [text for file in files if (text := file.read_text(errors="replace")).strip()]
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}.") from error
    if not texts:
        raise UserError(f"{path} holds no text; give --texts a file or a folder of texts.")
    return texts
