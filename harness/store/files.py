"""Files that are replaced in one move, and the sentence for a user when the disk takes no more."""

import errno
import os
from pathlib import Path

from harness.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def replace_file(path: Path, content: str | bytes) -> Path:
    """Write a temporary file beside `path` and rename it, so that nobody sees half a file; returns `path`.

    Makes missing folders. Raises `UserError` when the disk is full or the folder cannot be written.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(content.encode("utf-8", "replace") if isinstance(content, str) else content)
            part.replace(path)
        finally:
            if part.exists():
                part.unlink()
    except OSError as error:
        raise cannot_write(path, error) from None
    return path


def cannot_write(path: Path, error: OSError) -> UserError:
    """The error for a user whose file cannot be written: the path, the reason, and what to do."""
    remedy = "free some space on that disk" if error.errno in FULL else "make its folder writable or choose another one"
    return UserError(f"{path} cannot be written ({error.strerror or error}): {remedy}, and the same command goes on.")
