"""`kill -9` at random moments, then the same command: no sample lost, none twice, the same tokens as without a kill."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from harness.store.folder import Store
from tests.pair import saved

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


def command(folder: Path, plugin: Path) -> list[str]:
    return [sys.executable, "-m", "harness.cli", "run", "-m", str(saved("llama")), "-t", "eight", "--plugin",
            str(plugin), "-s", "top_p", "-s", "beam:width=3", "-s", "contrastive_search", "--device", "cpu",
            "--threads", "1", "-o", str(folder)]


def test_killed_runs_resume(tmp_path: Path) -> None:
    plugin, seed = tmp_path / "eight.py", int(os.environ.get("KILL_SEED", "1"))
    plugin.write_text(TASK)
    moments, kills = random.Random(seed), 0
    records = tmp_path / "run" / "records" / "0000.jsonl"
    while kills < 4:
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
    assert kills >= 1, "the run ended before it could be killed"
    done = subprocess.run(command(tmp_path / "run", plugin), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    whole = subprocess.run(command(tmp_path / "whole", plugin), capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    resumed, straight = (list(Store.open(tmp_path / name).records()) for name in ("run", "whole"))
    assert set(Counter(record.key for record in resumed).values()) == {1}
    assert {r.key: r.turns[0].tokens for r in resumed} == {r.key: r.turns[0].tokens for r in straight}
    assert len(resumed) == 32


@pytest.mark.parametrize("torn", [b'{"task": "eight", "exa', b"\x00\x00\x00"])
def test_a_torn_line_is_dropped_and_redone(tmp_path: Path, torn: bytes) -> None:
    plugin = tmp_path / "eight.py"
    plugin.write_text(TASK)
    run = command(tmp_path / "run", plugin)
    assert subprocess.run(run, capture_output=True).returncode == 0
    path = tmp_path / "run" / "records" / "0000.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-3]) + torn)
    assert subprocess.run(run, capture_output=True).returncode == 0
    again = path.read_bytes().splitlines(keepends=True)
    assert again[:-3] == lines[:-3]
    assert len(again) == len(lines) == len({record.key for record in Store.open(tmp_path / "run").records()})
