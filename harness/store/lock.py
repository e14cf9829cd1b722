"""The lock of a run folder: one process at a time writes into it, and readers need no lock."""

import contextlib
import datetime
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from harness.errors import UserError
from harness.store.files import cannot_write, replace_file

LOCK, HOLDER = "run.lock", "run.lock.json"  # the locked file, and the process that locked it


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder; raises `UserError` naming the process that already holds it.

    The operating system releases the lock when the process ends, however it ends.
    """
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{folder} is in use by {_holder(folder)}: wait until that has ended, or stop it.") from None
    except OSError as error:
        raise cannot_write(folder, error) from None
    try:
        since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        replace_file(folder / HOLDER, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
        yield
    finally:
        with contextlib.suppress(OSError):  # a folder that became read-only
            (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def held_by(folder: Path) -> str:
    """Return a description of the process that holds the lock of a run folder; empty if none does."""
    if not (folder / HOLDER).exists():
        return ""
    try:
        with FileLock(folder / LOCK).acquire(timeout=0):
            return ""
    except (Timeout, OSError):
        return _holder(folder)


def _holder(folder: Path) -> str:
    """Return a description of the process that holds the lock."""
    for _ in range(20):  # the process writes its name just after taking the lock
        try:
            holder = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
            return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
        except (OSError, ValueError, KeyError):
            time.sleep(0.01)
    return "another process"
