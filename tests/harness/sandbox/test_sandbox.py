"""Untrusted programs: what counts as a pass, what they cannot reach, and that nothing is left of them."""

import os
import signal
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


@pytest.fixture(params=[("namespaces", "seccomp", "landlock"), (), pytest.param(
    ("seccomp", "landlock"), marks=pytest.mark.slow)], ids=lambda names: "+".join(names) or "limits")
def anywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run once as this machine allows, then as if its kernel allowed less."""
    monkeypatch.setattr(sandbox, "PROTECTIONS", {**dict.fromkeys(request.param, ""), "limits": ""})


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("program", [
    "", "assert 1 + 1 == 2", "print('x' * 10_000_000)", "import sys\nassert sys.stdin.read() == ''",
    "open('mine.txt', 'w').write('x')", "from typing import List\nimport re, math, collections, hashlib",
    "if __name__ == '__main__':\n    raise SystemExit", "x = '\u2028'\nassert len(x) == 1",
])
def test_passes(program: str) -> None:
    assert run_program(program) == Outcome("passed")


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize(("program", "reason"), [
    ("x = 1\nassert x == 2", "AssertionError (line 2)"),
    ("raise ValueError('a\\nb')", "ValueError: a b (line 1)"),
    ("def f(:", "SyntaxError"),
    ("'\0'", "null bytes"),
    ("assert '\ud800'", "surrogates not allowed"),
    ("import sys\nsys.exit(0)", "SystemExit: 0"),
    ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ("import os\nos._exit(0)", "ended before"),
    ("import os\nos.abort()", "ended before"),
    ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "ended before"),
    ("import ctypes\nctypes.string_at(0)", "ended before"),
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


@pytest.mark.parametrize(("verdict", "status"), [
    (None, "timeout"), ("", "failed"), ("failed: no", "failed"), ("passed?", "failed"), ("passed", "passed")])
def test_only_the_verdict_passed_passes(verdict: str | None, status: str) -> None:
    """Nor does a judge that ends without any verdict."""
    assert sandbox._outcome(verdict, 1.0).status == status


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
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    assert run_program("import os\nassert 'MY_API_KEY' not in os.environ").status == "passed"
    assert "No module named 'harness'" in run_program("import harness").message
    assert "No module named 'pytest'" in run_program("import pytest").message
    assert "No module named 'remote'" in run_program("import remote").message


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


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize(("program", "tests"), [
    ("def f(x): return x", "assert f(2**80) == 2**80 and f(None) is None and f(True) is True and f(1.5) == 1.5"),
    ("def f(): return float('nan'), float('-inf'), 1j", "x, y, z = f()\nassert x != x and y < -9e99 and z == 1j"),
    ("def f(x): return {1: [x, (x,)], 'a': {x}}", "assert f(b'z') == {1: [b'z', (b'z',)], 'a': {b'z'}}"),
    ("from collections import Counter, namedtuple, OrderedDict, deque\nP = namedtuple('P', 'a b')\n"
     "def f(): return P(1, 2), Counter('aab'), OrderedDict(a=1), deque([1])",
     "from collections import deque\nassert f() == ((1, 2), {'a': 2, 'b': 1}, {'a': 1}, deque([1]))"),
    ("from decimal import Decimal\nfrom datetime import date\ndef f(): return Decimal('0.1'), date(2020, 1, 2)",
     "import datetime, decimal\nassert f() == (decimal.Decimal('0.1'), datetime.date(2020, 1, 2))"),
    ("def f(x): x.append(x.pop(0))", "x = [1, 2]\nf(x)\nassert x == [2, 1]"),
    ("def f(x): x['b'] = {1}", "x = {}\nf(x)\nassert x == {'b': {1}}"),
    ("def f(n):\n  yield from range(n)", "assert list(f(3)) == [0, 1, 2] and f(3) != [0, 1, 2]"),
    ("def f(x): return 1 / x", "try: f(0)\nexcept ZeroDivisionError as error: assert 'division' in str(error)\n"
                               "else: raise AssertionError"),
    ("class E(KeyError): pass\ndef f(x): raise E(x)", "try: f(0)\nexcept KeyError: pass\nelse: raise AssertionError"),
    ("class Node:\n  def __init__(self, value): self.value, self.next = value, None\n"
     "def f(node): return 1 + f(node.next) if node else 0",
     "root = Node(1)\nroot.next = Node(2)\nassert f(root) == 2 and root.next.value == 2"),
    ("import math\ndef f(x): return x", "assert math.floor(f(1.5)) == 1"),
    ("def f(x): return x", "import numpy as np\nassert np.allclose(f([0.1 + 0.2]), [0.3])"),
    ("def f(x, *, y=1): return x + y", "assert f(1, y=2) == 3 and f(x=1) == 2"),
])
def test_what_functions_get_and_give_is_what_it_was(program: str, tests: str) -> None:
    assert run_program(program, tests, own=["f"]) == Outcome("passed")
    assert run_program(f"{program}\nf = lambda *_: None", tests, own=["f"]).status == "failed"


def test_tests_see_the_prompt_as_it_was_and_only_its_function_from_the_program() -> None:
    setup = "import math\ndef helper(x): return x + 1\ndef f(x):\n  'Call helper.'"
    program = ("def helper(x): return 0\nclass math: floor = abs = lambda *_: 0\n"
               "abs = len = lambda _: 0\ndef f(x): return 0")
    tests = "assert abs(f(5)) == 0 and len('ab') == 2 and math.floor(2.5) == 2\nassert helper(1) == 2"
    assert run_program(program, tests, setup=setup, own=["f"]).status == "passed"
    assert "NameError" in run_program("x = 1", "f(1)", setup=setup, own=["f"]).message
    assert run_program("def f(x): return 1", "assert f(0) == 1", setup="def f(x:", own=["f"]).status == "passed"


def test_what_only_the_tests_have_is_not_in_the_program() -> None:
    outcome = run_program("def f(x):\n  import numpy", "f(1)")
    assert "No module named 'numpy'" in outcome.message
    assert "line 1 of the tests" in outcome.message


def test_waiting_for_a_processor_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import time\ntime.sleep(0.6)"
    assert run_program(program, timeout=0.3).status == "timeout"
    calls = iter(range(1000))
    monkeypatch.setattr(sandbox, "_kept_waiting", lambda pid: 0.3 * next(calls))
    assert run_program(program, timeout=0.3).status == "passed"
    assert run_program("import time\ntime.sleep(600)", timeout=0.1).status == "timeout"  # but not for ever


@pytest.mark.parametrize(("protections", "said"), [
    ((), "files; the network is only hidden from Python's sockets; files of others can be read"),
    (("seccomp",), "no sockets, processes or signals (seccomp); limits on time, memory and files; files of others"),
    (("namespaces", "landlock"), "(namespaces); no files but its own (Landlock); limits on time, memory and files"),
])
def test_the_level_of_isolation_is_named(protections: tuple[str, ...], said: str,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "active_protections", lambda: (*protections, "limits"))
    assert said in isolation.__wrapped__()


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
    root = Path(__file__).parents[3]
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
