"""Files of JSON lines that are only ever appended to, and survive being killed in the middle of a line."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from harness.errors import UserError

M = TypeVar("M", bound=BaseModel)


def append(path: Path, rows: Iterable[BaseModel]) -> None:
    """Write each row as one line and hand all of them to the disk before returning."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(row.model_dump_json() + "\n" for row in rows))
        file.flush()
        os.fsync(file.fileno())


def read(path: Path, kind: type[M], what: str) -> Iterator[M]:
    """Every row of a file, none when there is no file; a torn last line is skipped, any other raises `UserError`."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for place, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield kind.model_validate_json(line)
            except ValidationError as error:
                raise UserError(f"{path}, line {place}: not {what} ({first(error)}).") from None


def mend(path: Path) -> None:
    """Cut a torn last line off, so that the next row starts on a line of its own."""
    if path.exists():
        data = path.read_bytes()
        if not data.endswith(b"\n") and data:
            with path.open("r+b") as file:
                file.truncate(data.rfind(b"\n") + 1)


def first(error: ValidationError) -> str:
    """The first thing that is wrong, and where."""
    where = error.errors()[0]
    return f"{'.'.join(map(str, where['loc'])) or 'line'}: {where['msg']}"
