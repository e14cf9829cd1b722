"""`kill -9`, two starts at once and a full disk, then the same command: no sample lost, none twice, the same tokens."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from harness.plugins.registry import TASKS
from harness.store.folder import Store
from harness.store.lock import HOLDER
from tests.pair import saved
from tests.program import call

TASK = '''"""Eight short texts."""
from dataclasses import dataclass
from typing import ClassVar
from harness.plugins.task import Example, Task

@dataclass(frozen=True)
class Eight(Task):
    version: ClassVar[int] = 1
    source: ClassVar[str] = "test"
    headline: ClassVar[str] = "length"
    max_new_tokens: ClassVar[int] = 40

    def examples(self, data):
        return [Example(str(i), (f"text number {i}",)) for i in range(8)]

    def score(self, example, answers):
        return {"length": float(len(answers[0]))}
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the task; its place is a setting of the run, which only the same command resumes."""
    path = tmp_path_factory.mktemp("plugin") / "eight.py"
    path.write_text(TASK)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, plugin: Path) -> Path:
    """Return the folder of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    complete(folder, plugin)
    return folder


def words(folder: Path, plugin: Path) -> list[str]:
    return ["run", "-m", str(saved("llama")), "-t", "eight", "--plugin", str(plugin), "-s", "top_p", "-s",
            "beam:width=3", "-s", "contrastive_search", "--device", "cpu", "--threads", "1", "-o", str(folder)]


def command(folder: Path, plugin: Path) -> list[str]:
    return [sys.executable, "-m", "harness.cli", *words(folder, plugin)]


def complete(folder: Path, plugin: Path) -> None:
    """Give the same command in this process: a new one takes seconds to import what this one has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TASKS, "_files", {})  # later tests list the tasks
        done = call(*words(folder, plugin))
    assert done.exit_code == 0, done.output


def test_killed_runs_resume(tmp_path: Path, plugin: Path, whole: Path) -> None:
    moments, kills = random.Random(int(os.environ.get("KILL_SEED", "1"))), 0
    records = tmp_path / "run" / "records" / "0000.jsonl"
    while kills < 2:
        process = subprocess.Popen(command(tmp_path / "run", plugin), start_new_session=True,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = records.stat().st_size if records.exists() else 0
        while process.poll() is None and (records.stat().st_size if records.exists() else 0) == before:
            time.sleep(0.005)
        time.sleep(moments.random() * 0.05)
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        assert (tmp_path / "run" / HOLDER).exists(), "it held the lock"
    assert kills >= 1, "the run ended before it could be killed"
    complete(tmp_path / "run", plugin)
    resumed, straight = (list(Store.open(folder).records()) for folder in (tmp_path / "run", whole))
    assert set(Counter(record.key for record in resumed).values()) == {1}
    assert {r.key: r.turns[0].tokens for r in resumed} == {r.key: r.turns[0].tokens for r in straight}
    assert len(resumed) == 32


@pytest.mark.parametrize("torn", [b'{"task": "eight", "exa', b"\x00\x00\x00"])
def test_a_torn_line_is_dropped_and_redone(tmp_path: Path, plugin: Path, whole: Path, torn: bytes) -> None:
    path = shutil.copytree(whole, tmp_path / "run") / "records" / "0000.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-3]) + torn)
    complete(tmp_path / "run", plugin)
    again = path.read_bytes().splitlines(keepends=True)
    assert again[:-3] == lines[:-3]
    assert len(again) == len(lines) == len({record.key for record in Store.open(tmp_path / "run").records()})


def test_of_two_starts_one_runs_and_the_other_names_it(tmp_path: Path, plugin: Path) -> None:
    """Whichever comes first is stopped for as long as the other starts, which on a busy machine may take longer."""
    both = {process.pid: process for process in (subprocess.Popen(
        command(tmp_path / "run", plugin), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2))}
    while not (tmp_path / "run" / HOLDER).exists():
        time.sleep(0.005)
        assert any(process.poll() is None for process in both.values())
    runs = both.pop(json.loads((tmp_path / "run" / HOLDER).read_text())["pid"])
    runs.send_signal(signal.SIGSTOP)
    [refused] = both.values()
    said = refused.communicate()[1]
    runs.send_signal(signal.SIGCONT)
    _, errors = runs.communicate()
    assert (runs.returncode, refused.returncode) == (0, 2), (errors, said)
    assert f"run is in use by process {runs.pid} on " in said
    assert "Traceback" not in said
    keys = Counter(record.key for record in Store.open(tmp_path / "run").records())
    assert len(keys) == 32
    assert set(keys.values()) == {1}


def test_a_full_disk_ends_a_run_that_goes_on_later(tmp_path: Path, plugin: Path) -> None:
    run = tmp_path / "run"

    def little_space() -> None:  # a limit on the size of a file stops a write half-way, as a full disk does
        resource.setrlimit(resource.RLIMIT_FSIZE, (25_000, resource.RLIM_INFINITY))
    full = subprocess.run(command(run, plugin), capture_output=True, text=True, preexec_fn=little_space)
    assert full.returncode == 2
    assert "0000.jsonl cannot be written (File too large): free some space on that disk, then resume with " \
        "the same command." in full.stderr
    assert "Traceback" not in full.stderr
    before = (run / "records" / "0000.jsonl").read_bytes()
    assert before.endswith(b"\n")
    assert 0 < before.count(b"\n") < 32
    complete(run, plugin)
    assert (run / "records" / "0000.jsonl").read_bytes().startswith(before)
    keys = Counter(record.key for record in Store.open(run).records())
    assert len(keys) == 32
    assert set(keys.values()) == {1}
