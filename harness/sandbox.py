"""Runs one untrusted program in a fresh process with limits, and says whether it passed, failed or timed out.

A program that ends early, by whatever means, does not pass. One that is written against this module and hunts for the
token among its own open files can still lie about its own result; its reach on the machine is limited all the same.
"""

import contextlib
import functools
import math
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Literal

CHILD = Path(__file__).with_name("sandbox_child.py")
START_SECONDS = 30.0
MOST_BYTES = 4096
LEVELS = {"namespaces": "no network, own process tree, limits", "limits": "limits only: the network is reachable"}


@dataclass(frozen=True)
class Outcome:
    """How a program ended; `message` says why it did not pass."""

    status: Literal["passed", "failed", "timeout"]
    message: str = ""


def run_program(source: str, *, timeout: float = 3.0, memory_mb: int = 1024) -> Outcome:
    """Run `source` as a Python program of the standard library only; it passes when it runs to its end.

    `timeout` is the wall time of the program in seconds, without the interpreter's start; `memory_mb` its address
    space in MiB. Exit codes and output never count as a pass: the process must hand back a random token that it reads
    only once the program is over. Safe to call from many threads. Raises `RuntimeError` when no process can be started.
    """
    return _run(source, timeout, memory_mb)[1]


@functools.cache
def isolation() -> str:
    """What programs are kept from on this machine, found by running an empty one."""
    return LEVELS[_run("", 10.0, 1024)[0]]


def _run(source: str, timeout: float, memory_mb: int) -> tuple[str, Outcome]:
    """The level of isolation reached, and the outcome."""
    token = secrets.token_hex(16)
    with (
        tempfile.TemporaryDirectory(prefix="decodebench-", ignore_cleanup_errors=True) as folder,
        _pipe() as (token_read, token_write),
        _pipe() as (verdict_read, verdict_write),
    ):
        Path(folder, "program.py").write_text(source, encoding="utf-8", errors="replace", newline="")
        token_write.write(token.encode())
        token_write.close()
        child = _start(folder, (token_read.fileno(), verdict_write.fileno()), math.ceil(timeout) + 1, memory_mb)
        try:
            verdict_write.close()
            level = _line(verdict_read, START_SECONDS)
            if level not in LEVELS:
                raise RuntimeError(f"The sandbox's process did not start ({level or 'no answer'}).")
            verdict = _line(verdict_read, timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            _drain(verdict_read)
    return level, _outcome(verdict, token, timeout)


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[FileIO, FileIO]]:
    read, write = os.pipe()
    with FileIO(read, "rb") as reader, FileIO(write, "wb") as writer:
        yield reader, writer


def _start(folder: str, pipes: tuple[int, int], cpu_seconds: int, memory_mb: int) -> subprocess.Popen[bytes]:
    """Start the child in a session of its own, with nothing of ours but the two pipes."""
    environment = {"HOME": folder, "TMPDIR": folder, "PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}
    if "LD_LIBRARY_PATH" in os.environ:  # some interpreters do not start without it
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    # -P -s -S -B are -I and no site, except that the hash seed above is read: results must not depend on it.
    command = [sys.executable, "-P", "-s", "-S", "-B", str(CHILD), *map(str, (*pipes, cpu_seconds, memory_mb))]
    null = subprocess.DEVNULL
    try:
        return subprocess.Popen(command, stdin=null, stdout=null, stderr=null, cwd=folder, env=environment,
                                start_new_session=True, pass_fds=pipes)
    except OSError as error:
        raise RuntimeError(f"The sandbox could not start a process ({error}).") from error


def _line(pipe: FileIO, seconds: float) -> str | None:
    """The next line without its end; what there is at the end of file; None when the time is over."""
    line = b""
    for byte in _bytes(pipe, seconds, 1):
        line += byte
        if byte in (b"\n", b"") or len(line) == MOST_BYTES:
            return line.decode("utf-8", "replace").rstrip("\n")
    return None


def _drain(pipe: FileIO) -> None:
    """Wait a moment until no process holds the other end, so that nobody writes into the folder being removed."""
    for piece in _bytes(pipe, 2.0, MOST_BYTES):
        if not piece:
            return


def _bytes(pipe: FileIO, seconds: float, most: int) -> Iterator[bytes]:
    """What arrives within `seconds`, at most `most` bytes at once; b"" at the end of file, again and again."""
    end = time.monotonic() + seconds
    waiting = select.poll()
    waiting.register(pipe, select.POLLIN)
    while waiting.poll(max(0.0, end - time.monotonic()) * 1000):
        yield pipe.read(most) or b""


def _outcome(verdict: str | None, token: str, timeout: float) -> Outcome:
    if verdict is None:
        return Outcome("timeout", f"no result after {timeout:g} s")
    if secrets.compare_digest(verdict.encode(), token.encode()):
        return Outcome("passed")
    return Outcome("failed", verdict or "the process ended before the program did")
