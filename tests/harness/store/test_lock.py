"""A run folder is held by one process, and the lock of a dead process is free."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.store.folder import Store
from harness.store.lock import HOLDER, locked
from tests.runs import manifest, record, strategy, task, turn

HOLD = "import sys; from pathlib import Path; from harness.store.lock import locked\n" \
       "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()"
MANIFEST = manifest([strategy("greedy")], [task("math")])


def hold(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the lock of a folder until its input ends."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with hold(folder) as process:
        for _ in range(2):
            with pytest.raises(UserError) as refused, Store.begin(folder, MANIFEST):
                pass
            start = f"{folder} is in use by process {process.pid} on {socket.gethostname()} since 20"
            assert str(refused.value).startswith(start)
            assert not (folder / "manifest.json").exists()
        process.communicate()
    with Store.begin(folder, MANIFEST) as store:
        store.append(record("math", "1", "greedy", [turn([1], [1.0])]))
    assert not (folder / HOLDER).exists()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with hold(folder) as process:
        process.kill()
    assert (folder / HOLDER).exists(), "it could not clean up"
    with locked(folder), pytest.raises(UserError, match=f"process {os.getpid()} "), locked(folder):
        pass
    with locked(folder):
        pass


def test_an_error_gives_the_folder_free(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Store.begin(tmp_path / "run", MANIFEST):
        raise RuntimeError
    with Store.begin(tmp_path / "run", MANIFEST) as store:
        assert store.finished() == (set(), 0)
