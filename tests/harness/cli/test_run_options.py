"""How `run` starts and answers: --quiet, --json, --dry-run and --force."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.plugins.registry import STRATEGIES, TASKS
from harness.store.folder import Store
from harness.store.lock import locked
from tests.harness.cli.test_cli import options, plugin
from tests.plugins import BROKEN
from tests.program import call


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(STRATEGIES, "_files", {})
    monkeypatch.setattr(TASKS, "_files", {})
    monkeypatch.setenv("COLUMNS", "80")


def small(folder: Path, *more: object) -> Sequence[object]:
    return options(folder, "-s", "top_p:p=0.9", "--limit", 2, *more)


def test_a_dry_run_writes_nothing_and_says_what_would_run(tmp_path: Path) -> None:
    done = call(*small(tmp_path, "--samples", 2, "--dry-run"))
    assert done.exit_code == 0, done.stderr
    assert done.stderr == ""
    text = done.stdout
    assert "words: 2 strategies × 2 examples × 2 answers = 8 samples" in text
    assert "top_p" in text
    assert f"folder      {tmp_path / 'run'}\n" in text
    assert re.search(r"time        about .* if every answer reaches its limit", text)
    assert max(len(line) for line in text.splitlines() if not line.startswith(("folder", "Note"))) <= 80
    assert not (tmp_path / "run").exists()


def test_a_dry_run_refuses_what_a_run_refuses(tmp_path: Path) -> None:
    call(*small(tmp_path))
    again = call(*small(tmp_path, "--dry-run"))
    assert "(4 already done)" in again.stdout
    other = call(*small(tmp_path, "--seed", 1, "--dry-run"))
    assert other.exit_code == 2
    assert "start over with --force" in other.stderr
    forced = call(*small(tmp_path, "--seed", 1, "--dry-run", "--force"))
    assert "would be moved aside" in forced.stdout
    assert len(list(Store.open(tmp_path / "run").records())) == 4
    assert call(*small(tmp_path, "--dry-run", "--json")).exit_code == 2


def test_a_dry_run_says_why_it_cannot_tell_the_time(tmp_path: Path) -> None:
    broken = plugin(tmp_path, "broken", BROKEN)
    done = call(*options(tmp_path, "--baseline", "broken", "--plugin", broken, "--dry-run"))
    assert done.exit_code == 0, done.stderr
    assert "time        unknown: RuntimeError: " in done.stdout


def test_quiet_prints_the_page_alone_and_json_one_object(tmp_path: Path) -> None:
    page = tmp_path / "run" / "report" / "index.html"
    quiet = call(*small(tmp_path, "--quiet"))
    assert (quiet.exit_code, quiet.stdout, quiet.stderr) == (0, f"{page}\n", "")
    answer = call(*small(tmp_path, "--json"))
    found = json.loads(answer.stdout)
    assert (found["folder"], found["page"], found["samples"], found["failed"]) == (
        str(tmp_path / "run"), str(page), 4, 0)
    assert {row["strategy"].partition(":")[0] for row in found["leaderboard"]} == {"greedy", "top_p"}
    assert [row["rank"] for row in found["leaderboard"]] == [None, None]
    assert {"gain", "gain_low", "gain_high", "speedup", "same", "worse"} < set(found["leaderboard"][0])
    assert found["rule"].startswith("Not ranked: a rank needs at least 5 problems of each task, and ")
    assert isinstance(found["verdict"], list)
    assert "4 samples (4 already done)" in answer.stderr


def test_failures_are_told_on_stderr_and_by_the_exit_code(tmp_path: Path) -> None:
    broken = plugin(tmp_path, "broken", BROKEN)
    done = call(*options(tmp_path, "--plugin", broken, "-s", "broken", "--json"))
    assert done.exit_code == 3
    assert json.loads(done.stdout)["failed"] == 3
    assert "3 of 6 samples failed" in done.stderr


def test_force_moves_only_a_run_aside(tmp_path: Path) -> None:
    call(*small(tmp_path))
    done = call(*small(tmp_path, "--seed", 1, "--force"))
    assert done.exit_code == 0, done.stderr
    assert f"The earlier run is now in {tmp_path / 'run.old-1'}." in done.stderr
    assert Store.open(tmp_path / "run.old-1").manifest.config["seed"] == 0
    assert Store.open(tmp_path / "run").manifest.config["seed"] == 1
    assert not (tmp_path / "run.old-1" / "run.lock.json").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    refused = call(*small(tmp_path, "--force", "-o", tmp_path / "mine"))
    assert refused.exit_code == 2
    assert "is not a run of decodebench" in refused.stderr
    assert (tmp_path / "mine" / "notes.txt").exists()
    with locked(tmp_path / "run"):
        assert "in use by process" in call(*small(tmp_path, "--force")).stderr
    assert call(*small(tmp_path, "--force", "-o", tmp_path / "new")).exit_code == 0, "there is nothing to move"
