"""Runs one untrusted program in a sandbox, and reports whether its tests passed, failed or timed out.

Each program gets two processes. One runs only the program. The other, the judge, runs the tests: it calls the program's
functions through a pipe and compares the results, which are data and never code. The program therefore cannot forge the
verdict: it has neither the tests nor the pipe of the verdict. It can only return values; a program that has memorised
the tests passes, as in any other harness.
"""

import contextlib
import functools
import importlib.util
import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Literal

CHILD = Path(__file__).with_name("child.py")
START_SECONDS = 60.0
MAX_BYTES = 4096
PATIENCE = 20  # maximum wall time as a multiple of the limit, when the process has to wait for a CPU
PROTECTIONS = {
    "namespaces": "own network and process tree (namespaces)",
    "seccomp": "no sockets, processes or signals (seccomp)",
    "landlock": "no files but its own (Landlock)",
    "limits": "limits on time, memory and files",
}


@dataclass(frozen=True)
class Outcome:
    """The result of a program; `message` is the reason if it did not pass."""

    status: Literal["passed", "failed", "timeout"]
    message: str = ""


def run_program(program: str, tests: str = "", *, setup: str = "", own: Sequence[str] = (), timeout: float = 3.0,
                memory_mb: int = 1024) -> Outcome:
    """Run `program` with the standard library only, then `tests` on its definitions; both must run to their end.

    The tests run in a separate process. They see the names of `setup`, trusted code that runs there (ignored if it is
    not valid Python), and all other names of the program; names in `own` are always the program's. `timeout` is the
    wall time of both in seconds, without the start of the interpreter and without waiting for a CPU; `memory_mb` is the
    address space of each in MiB. Exit codes and output are ignored. Thread-safe. Raises `RuntimeError` if no process
    can be started.
    """
    return _run({"program": program, "tests": tests, "setup": setup, "own": list(own)}, timeout, memory_mb)[1]


@functools.cache
def isolation() -> str:
    """Describe the active protections and their gaps on this machine, determined by running an empty program."""
    active = active_protections()
    holes = ["the network is only hidden from Python's sockets"] * (not {"namespaces", "seccomp"} & set(active))
    holes += ["files of others can be read"] * ("landlock" not in active)
    return "; ".join([*(PROTECTIONS[name] for name in active), *holes])


@functools.cache
def active_protections() -> tuple[str, ...]:
    """Return the names in `PROTECTIONS` that are active on this machine."""
    return _run({"program": "", "tests": "", "setup": "", "own": []}, 10.0, 1024)[0]


def _run(job: dict[str, object], timeout: float, memory_mb: int) -> tuple[tuple[str, ...], Outcome]:
    """Run a job; returns the active protections and the outcome."""
    with (
        tempfile.TemporaryDirectory(prefix="decodebench-", ignore_cleanup_errors=True) as folder,
        _pipe() as (verdict_read, verdict_write),
    ):
        # The child deletes this file before the program starts, so that the program cannot read its tests.
        Path(folder, "job.json").write_text(json.dumps({**job, "path": _numpy()}), encoding="ascii")
        child = _start(folder, verdict_write.fileno(), math.ceil(timeout) + 1, memory_mb)
        program = 0
        try:
            verdict_write.close()
            level, _, number = (_line(verdict_read, START_SECONDS) or "no answer").rpartition(" ")
            if not level.endswith("limits") or not number.isdigit():
                raise RuntimeError(f"The sandbox's process did not start ({level} {number}).")
            program = 0 if "namespaces" in level else int(number)
            verdict = _verdict(verdict_read, child.pid, timeout)
        finally:
            child.terminate()  # ends the judge, whose end kills the program; no zombie is left
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(program or child.pid, signal.SIGKILL if program else signal.SIGTERM)
            _drain(verdict_read)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    return tuple(level.split()), _outcome(verdict, timeout)


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[FileIO, FileIO]]:
    read, write = os.pipe()
    with FileIO(read, "rb") as reader, FileIO(write, "wb") as writer:
        yield reader, writer


@functools.cache
def _numpy() -> str:
    """Return the folder of NumPy, which tests of HumanEval+ need; programs cannot import it."""
    spec = importlib.util.find_spec("numpy")
    return str(Path(spec.origin).parents[1]) if spec and spec.origin else ""


def _start(folder: str, verdict: int, cpu_seconds: int, memory_mb: int) -> subprocess.Popen[bytes]:
    """Start the child in a new session; it inherits only the pipe."""
    environment = {"HOME": folder, "TMPDIR": folder, "PYTHONHASHSEED": "0", "PYTHONUTF8": "1",
                   "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    if "LD_LIBRARY_PATH" in os.environ:  # some interpreters do not start without it
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    # -P -s -S -B equal -I without site, except that the hash seed above applies: results must not depend on it.
    numbers = map(str, (verdict, cpu_seconds, memory_mb))
    command = [sys.executable, "-P", "-s", "-S", "-B", str(CHILD), *numbers, ",".join(PROTECTIONS)]
    null = subprocess.DEVNULL
    try:
        return subprocess.Popen(command, stdin=null, stdout=null, stderr=null, cwd=folder, env=environment,
                                start_new_session=True, pass_fds=(verdict,))
    except OSError as error:
        raise RuntimeError(f"The sandbox could not start a process ({error}).") from error


def _verdict(pipe: FileIO, child: int, timeout: float) -> str | None:
    """Wait for the verdict, None after the time limit; time spent waiting for a CPU does not count."""
    start, waited, left = time.monotonic(), _kept_waiting(child), timeout
    while (line := _line(pipe, left)) is None:
        elapsed = time.monotonic() - start
        left = timeout - elapsed + _kept_waiting(child) - waited
        if left < 0.02 or elapsed > PATIENCE * timeout:
            return None
    return line


def _kept_waiting(pid: int) -> float:
    """Return the seconds that a process and its children waited for a CPU; 0 on systems other than Linux."""
    try:
        seconds = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, ValueError, IndexError):
        return 0.0
    return seconds + sum(_kept_waiting(int(child)) for child in below)


def _line(pipe: FileIO, seconds: float) -> str | None:
    """Read the next line without its end, or the rest at end of file; None after `seconds`."""
    line = b""
    for byte in _bytes(pipe, seconds, 1):
        line += byte
        if byte in (b"\n", b"") or len(line) == MAX_BYTES:
            return line.decode("utf-8", "replace").rstrip("\n")
    return None


def _drain(pipe: FileIO) -> None:
    """Wait up to 2 s until no process holds the other end, so that all of them have ended."""
    for piece in _bytes(pipe, 2.0, MAX_BYTES):
        if not piece:
            return


def _bytes(pipe: FileIO, seconds: float, limit: int) -> Iterator[bytes]:
    """Yield what arrives within `seconds`, at most `limit` bytes at a time; b"" repeatedly at end of file."""
    end = time.monotonic() + seconds
    waiting = select.poll()
    waiting.register(pipe, select.POLLIN)
    while waiting.poll(max(0.0, end - time.monotonic()) * 1000):
        yield pipe.read(limit) or b""


def _outcome(verdict: str | None, timeout: float) -> Outcome:
    if verdict is None:
        return Outcome("timeout", f"no result after {timeout:g} s")
    if verdict == "passed":
        return Outcome("passed")
    return Outcome("failed", verdict.removeprefix("failed: ") or "the judge ended before the tests did")
