"""Hostile programs at every level of isolation: none passes, and nothing is left of any."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from harness import sandbox
from harness.sandbox import run_program
from tests import scale
from tests.hostile import PROGRAMS, TESTS

LEVELS = {
    "all protections": ("namespaces", "seccomp", "landlock"),
    "no namespaces": ("seccomp", "landlock"),
    "no system call filter": ("namespaces", "landlock"),
    "no Landlock": ("namespaces", "seccomp"),
    "limits only": (),
}
NOBODY = 65534


class Surroundings:
    """What a program may want to reach: a server, a process of its own user, files and keys of a known name."""

    def __init__(self, folder: Path) -> None:
        self.marker, self.key = f"marker-{uuid4().hex}", uuid4().int % 2**30 + 1
        self.folder, self.reached = folder, list[str]()  # what came over the network can be received only once
        self.server = socket.create_server(("127.0.0.1", 0))
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.port = self.server.getsockname()[1]
        self.datagrams.bind(("127.0.0.1", self.port))
        self.server.setblocking(False)
        self.datagrams.setblocking(False)
        other = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
        self.victim = subprocess.Popen([shutil.which("sleep") or "sleep", "600"], cwd="/", **other)  # type: ignore[call-overload]

    def fill(self, source: str) -> str:
        """The program with the names of these surroundings."""
        return source.replace("MARKER", self.marker).replace("KEY", str(self.key)).replace("PORT", str(self.port))

    def traces(self) -> list[str]:
        """What is left of a program, or was reached by it."""
        found = [str(path) for folder in ("/tmp", "/var/tmp", "/dev/shm", self.folder, Path.home(), ".")
                 for path in [Path(folder, self.marker)] if path.exists()]
        found += [f"folder {path}" for path in self.folder.glob("decodebench-*")]
        found += [f"process {path.parent.name}" for path in Path("/proc").glob("[0-9]*/cmdline") if self._ours(path)]
        found += [kind for kind in ("shm", "sem", "msg") if f" {self.key} " in self._read(f"/proc/sysvipc/{kind}")]
        found += ["abstract socket"] * (self.marker in self._read("/proc/net/unix"))
        with contextlib.suppress(BlockingIOError):
            self.reached.append(f"connection {self.server.accept()}")
        with contextlib.suppress(BlockingIOError):
            self.reached.append(f"datagram {self.datagrams.recv(9)!r}")
        return found + self.reached + ["killed a process"] * (self.victim.poll() is not None)

    def close(self) -> None:
        """End the server and the process."""
        self.server.close()
        self.datagrams.close()
        self.victim.kill()
        self.victim.wait()

    def _ours(self, cmdline: Path) -> bool:
        return str(self.folder) in self._read(str(cmdline))

    def _read(self, path: str) -> str:
        try:
            return Path(path).read_text(errors="replace")
        except OSError:
            return ""


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Surroundings]:
    """Surroundings whose sandbox runs from and in a folder of their own, by which its processes are known."""
    shutil.copytree(sandbox.CHILD.parent, tmp_path / "code", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(sandbox, "CHILD", tmp_path / "code" / "child.py")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    around = Surroundings(tmp_path)
    yield around
    around.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the protections are Linux's")
@pytest.mark.parametrize("level", ["all protections", "no namespaces", *(
    pytest.param(level, marks=pytest.mark.slow) for level in list(LEVELS)[2:])])
def test_none_passes_and_nothing_is_left(level: str, surroundings: Surroundings,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "PROTECTIONS", {**dict.fromkeys(LEVELS[level], ""), "limits": ""})
    stand = sandbox._run({"program": "", "tests": "", "setup": "", "own": []}, 10, 1024)[0]
    whole = level == "all protections" or not scale.QUICK  # else only what reaches for something outside
    chosen = {name: one for name, one in PROGRAMS.items() if whole or one.protections or "socket" in one.source
              if not one.protections or set(one.protections) & set(stand)}
    assert len(chosen) >= (25 if whole else 14)
    with ThreadPoolExecutor(4) as pool:
        sources = [surroundings.fill(one.source) for one in chosen.values()]
        outcomes = list(pool.map(partial(run_program, tests=TESTS, own=["f"], timeout=0.3, memory_mb=512), sources))
    assert {name: one for name, one in zip(chosen, outcomes, strict=True) if one.status == "passed"} == {}
    end = time.monotonic() + 5  # a process that was killed takes a moment to go
    while (traces := surroundings.traces()) and time.monotonic() < end:
        time.sleep(0.05)
    assert traces == []


def test_the_tests_can_be_passed() -> None:
    assert run_program("def f(x): return x + 1", TESTS, own=["f"]).status == "passed"
    for name, one in PROGRAMS.items():
        compile(one.source.replace("KEY", "1").replace("PORT", "1"), name, "exec")
