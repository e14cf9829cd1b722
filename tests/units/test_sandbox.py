"""Untrusted programs: what counts as a pass, what they cannot reach, and that nothing is left of them."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness import sandbox
from harness.sandbox import Outcome, isolation, run_program


@pytest.fixture(params=["as it is", "without namespaces"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run once as this machine allows, once as if its kernel allowed no namespaces."""
    if request.param == "without namespaces":
        text = sandbox.CHILD.read_text(encoding="utf-8")
        patched = text.replace("LIBC.unshare(flags) == 0", "False")
        assert patched != text
        child = tmp_path / "child.py"
        child.write_text(patched, encoding="utf-8")
        monkeypatch.setattr(sandbox, "CHILD", child)


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("program", [
    "", "assert 1 + 1 == 2", "print('x' * 10_000_000)", "import sys\nassert sys.stdin.read() == ''",
    "open('mine.txt', 'w').write('x')", "from typing import List\nimport re, math, collections, hashlib",
    "if __name__ == '__main__':\n    raise SystemExit", "x = '\u2028'\nassert len(x) == 1", "assert '\ud800'",
])
def test_passes(program: str) -> None:
    assert run_program(program) == Outcome("passed")


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize(("program", "reason"), [
    ("x = 1\nassert x == 2", "AssertionError (line 2)"),
    ("raise ValueError('a\\nb')", "ValueError: a b (line 1)"),
    ("def f(:", "SyntaxError"),
    ("'\0'", "null bytes"),
    ("import sys\nsys.exit(0)", "SystemExit: 0"),
    ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ("import os\nos._exit(0)", "ended before"),
    ("import os\nos.abort()", "ended before"),
    ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "ended before"),
    ("import os, signal\nos.killpg(0, signal.SIGKILL)", "ended before"),
    ("import ctypes\nctypes.string_at(0)", "ended before"),
    ("import os\nfor n in range(3, 64):\n  try: os.write(n, b'passed\\n')\n  except OSError: pass", "passed"),
    ("class E(Exception):\n  def __str__(self): raise E\nraise E", "cannot be described"),
    ("x = bytearray(2 << 30)", "MemoryError"),
    ("open('big', 'wb').write(bytes(32 << 20))", "File too large"),
    ("files = [open('f%d' % n, 'w') for n in range(100)]", "Too many open files"),
    ("import os\nos.fork()", "BlockingIOError"),
])
def test_fails(program: str, reason: str) -> None:
    outcome = run_program(program)
    assert outcome.status == "failed"
    assert reason in outcome.message
    assert len(outcome.message) < 400


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("program", [
    "while True: pass",
    "import time\ntime.sleep(60)",
    "while True:\n  try:\n    while True: pass\n  except BaseException: pass",
    "import signal\nfor n in {*range(1, 32)} - {9, 19}: signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
])
def test_time_is_limited(program: str) -> None:
    start = time.monotonic()
    assert run_program(program, timeout=0.5).status == "timeout"
    assert time.monotonic() - start < 10


def test_secrets_of_the_environment_are_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    assert run_program("import os\nassert 'MY_API_KEY' not in os.environ").status == "passed"
    assert "No module named 'harness'" in run_program("import harness").message
    assert "No module named 'pytest'" in run_program("import pytest").message
    assert "No module named 'sandbox_child'" in run_program("import sandbox_child").message


def test_results_do_not_depend_on_the_hash_seed() -> None:
    messages = {run_program("raise ValueError(' '.join({'a', 'b', 'c', 'd', 'e'}))").message for _ in range(5)}
    assert len(messages) == 1


@pytest.mark.usefixtures("anywhere")
def test_the_folder_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(tmp_path.iterdir())
    run_program("import os\nos.makedirs('a/b')\nopen('a/b/c', 'w').close()\nos.chmod('a/b', 0)")
    run_program("n = 0\nwhile True:\n  n += 1\n  open(str(n), 'w').close()", timeout=0.3)
    assert set(tmp_path.iterdir()) == before


def test_open_files_are_given_back() -> None:
    run_program("")
    before = len(os.listdir("/dev/fd"))
    for program in ("", "assert False", "import os\nos._exit(0)"):
        run_program(program)
    assert len(os.listdir("/dev/fd")) == before


def test_no_network() -> None:
    if "no network" not in isolation():
        pytest.skip(f"this kernel allows no namespaces: {isolation()}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = f"import socket\nsocket.create_connection(('127.0.0.1', {server.getsockname()[1]}), timeout=1)"
        assert "unreachable" in run_program(program).message


def test_root_is_not_what_programs_run_as(tmp_path: Path) -> None:
    if os.getuid() != 0 or "4294967295" not in Path("/proc/self/uid_map").read_text():
        pytest.skip("these tests do not run as the root of a system that has other users")
    assert "PermissionError" in run_program(f"open({str(tmp_path / 'mine')!r}, 'w')").message
    assert run_program("import os\nassert os.getuid() != 0").status == "passed"


def test_many_at_once() -> None:
    programs = ["assert True", "assert False", "import os\nos._exit(0)", "x = 1"] * 8
    with ThreadPoolExecutor(8) as pool:
        statuses = [outcome.status for outcome in pool.map(run_program, programs)]
    assert statuses == ["passed", "failed", "failed", "passed"] * 8


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_no_program_outlives_a_killed_harness(tmp_path: Path) -> None:
    code = "from harness.sandbox import run_program; run_program('while True: pass', timeout=60)"
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "TMPDIR": str(tmp_path)}  # it cannot remove its folder
    harness = subprocess.Popen([sys.executable, "-c", code], cwd=root, env=environment)
    try:
        _wait(lambda: len(_descendants(harness.pid)) >= (3 if "own process tree" in isolation() else 1))
        found = _descendants(harness.pid)
    finally:
        harness.send_signal(signal.SIGKILL)
        harness.wait()
    _wait(lambda: not any(_alive(pid) for pid in found))


def test_a_process_that_cannot_start_is_not_a_failed_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "CHILD", Path("absent.py"))
    with pytest.raises(RuntimeError, match="did not start"):
        run_program("")
    monkeypatch.setattr(sys, "executable", "/absent/python")
    with pytest.raises(RuntimeError, match="could not start"):
        run_program("")


def _descendants(pid: int) -> list[int]:
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*children, *(below for child in children for below in _descendants(child))]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
