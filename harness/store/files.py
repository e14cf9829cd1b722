"""Atomic replacement of files, and the error for files that cannot be written."""

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from harness.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def replace_file(path: Path, content: str | bytes | Iterable[str | bytes]) -> Path:
    """Replace a file atomically, by renaming a temporary file in its folder; returns `path`.

    Content in pieces is written one by one, so it need not fit in memory.
    Creates missing folders. Raises `UserError` when the disk is full or the folder cannot be written.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                for piece in [content] if isinstance(content, str | bytes) else content:
                    file.write(piece.encode("utf-8", "replace") if isinstance(piece, str) else piece)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            if part.exists():
                part.unlink()
    except OSError as error:
        raise cannot_write(path, error) from None
    return path


def cannot_write(path: Path, error: OSError) -> UserError:
    """Return the `UserError` for a file that cannot be written, with the reason and what to do."""
    remedy = "free some space on that disk" if error.errno in FULL else "make its folder writable or choose another one"
    return UserError(f"{path} cannot be written ({error.strerror or error}): {remedy}, then resume with the same "
                     "command.")
