"""Append-only files of JSON lines, which stay readable when a process is killed in the middle of a line."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from harness.errors import UserError
from harness.store.files import cannot_write

M = TypeVar("M", bound=BaseModel)
BLOCK = 1 << 16  # bytes


def append(path: Path, rows: Iterable[BaseModel]) -> None:
    """Append each row as one line, and sync them to disk before returning.

    Raises `UserError` when they cannot be written; the file is then unchanged.
    """
    data = memoryview("".join(row.model_dump_json() + "\n" for row in rows).encode())
    try:
        with path.open("ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            try:
                while data:
                    data = data[file.write(data):]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
    except OSError as error:
        raise cannot_write(path, error) from None


def read(path: Path, kind: type[M], what: str) -> Iterator[M]:
    """Yield the rows of a file, if it exists; skip an incomplete last line, raise `UserError` for other bad ones."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line_number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield kind.model_validate_json(line)
            except ValidationError as error:
                raise UserError(f"{path}, line {line_number}: not {what} ({first(error)}).") from None


def mend(path: Path) -> None:
    """Cut off an incomplete last line, so that the next row starts a new line; raises `UserError` if that fails."""
    try:
        with path.open("rb") as file:
            size = end = file.seek(0, os.SEEK_END)
            while end:  # backwards in blocks: a file may be larger than the memory
                start = max(0, end - BLOCK)
                file.seek(start)
                if (newline := file.read(end - start).rfind(b"\n")) >= 0:
                    end = start + newline + 1
                    break
                end = start
        if end < size:
            os.truncate(path, end)
    except FileNotFoundError:
        return
    except OSError as error:
        raise cannot_write(path, error) from None


def first(error: ValidationError) -> str:
    """Return the first error as `field: message`."""
    details = error.errors()[0]
    return f"{'.'.join(map(str, details['loc'])) or 'line'}: {details['msg']}"
