"""`kill -9` while verdicts come in, then the same command: none lost, none written twice, nothing asked needlessly."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from harness.judge import verdicts as disk
from tests.endpoint import serving
from tests.judged import data, numbered, run

ROWS = {"greedy": [(n % 10, (3 * n) % 10) for n in range(12)], "top_p": [(n % 7, (n * n) % 10) for n in range(12)]}


def test_killed_judgings_resume(tmp_path: Path) -> None:
    source = data(tmp_path / "data", 12)
    store = run(tmp_path / "run", source, {spec: numbered(*rows) for spec, rows in ROWS.items()})
    with serving(lambda prompt, number: "wait") as server:
        command = [sys.executable, "-m", "harness.cli", "judge", str(store.folder), "-j", "m", "--base-url", server.url,
                   "--yes", "--data", str(source), "--concurrency", "2"]
        for more in (1, 12):
            process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
            before = len(disk.load(store.folder))
            while process.poll() is None and len(disk.load(store.folder)) < before + more:
                time.sleep(0.002)
            assert process.poll() is None, "the judging ended before it could be killed"
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert 13 <= len(disk.load(store.folder)) < 48
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        twice = sum(count - 1 for count in server.seen.values())
        assert twice <= 2 * 2, "only what was under way when it was killed may be asked again"
    verdicts = disk.load(store.folder)
    assert len(verdicts) == len({one.slot for one in verdicts}) == 48
    assert all(one.rating == ROWS[one.strategy][int(one.example.rpartition("/")[2]) - 81][one.turn - 1]
               for one in verdicts)
