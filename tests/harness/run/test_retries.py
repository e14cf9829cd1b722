"""A failed sample is tried again when the run is resumed, and both attempts are kept apart."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness.measure.summary import summarise
from harness.plugins.registry import STRATEGIES, TASKS
from harness.store.config import RunConfig
from harness.store.folder import Store
from harness.store.schema import Record
from tests.harness.run.test_runner import BROKEN, config, go
from tests.pair import saved
from tests.program import call

__all__ = ["config"]
UNTIL_MENDED = BROKEN.replace("        raise", """        from pathlib import Path
        if not Path(__file__).with_name("mended").exists():
            raise""")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(STRATEGIES, "_files", {})
    monkeypatch.setattr(TASKS, "_files", {})


def aside(folder: Path) -> list[Record]:
    return [Record.model_validate_json(line) for line in (folder / "failed.jsonl").read_text().splitlines()]


def test_failed_samples_are_tried_again_and_kept_apart(config: RunConfig) -> None:
    config.plugins[1].write_text(UNTIL_MENDED)
    broken = replace(config, strategies=("broken", "top_p"))
    outcome, first = go(broken)
    assert (outcome.failed, len(first)) == (3, 9)
    assert not (outcome.folder / "failed.jsonl").exists()
    config.plugins[1].with_name("mended").touch()
    outcome, second = go(broken)
    assert (outcome.failed, outcome.samples, len(second)) == (0, 9, 9)
    assert len({one.key for one in second}) == 9
    assert [one for one in first if one.status == "ok"] == second[:6], "what had succeeded is not run again"
    assert [one for one in first if one.status == "failed"] == aside(outcome.folder)
    assert summarise(Store.open(outcome.folder))["failed"].sum() == 0
    again, third = go(broken)
    assert (third, again.failed) == (second, 0)
    assert len(aside(outcome.folder)) == 3


def test_a_sample_that_fails_again_is_one_record(config: RunConfig) -> None:
    broken = replace(config, strategies=("broken",))
    for number in range(3):
        outcome, records = go(broken)
        assert (outcome.failed, len(records)) == (3, 6)
        assert len({one.key for one in records}) == 6
        assert number == 0 or len(aside(outcome.folder)) == 3 * number


def test_a_process_killed_while_it_sets_them_aside_loses_and_doubles_no_record(
        config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = replace(config, strategies=("broken",))
    outcome, first = go(broken)
    monkeypatch.setattr(Store, "replace_records", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        go(broken)
    assert list(Store.open(outcome.folder).records()) == first
    monkeypatch.undo()
    assert len({one.key for one in go(broken)[1]}) == 6


def test_a_larger_cache_mends_a_run_that_had_no_room(tmp_path: Path) -> None:
    run = ["run", "-m", saved("llama"), "-t", "nano_math", "-s", "greedy", "-s", "prompt_lookup", "--limit", 2,
           "--max-new-tokens", 300, "--threads", 1, "-o", tmp_path / "run"]
    done = call(*run, "--cache-gb", 0.000001)
    assert done.exit_code == 3
    assert "raise --cache-gb" in (tmp_path / "run" / "records" / "0000.jsonl").read_text()
    done = call(*run, "--cache-gb", 1)
    assert done.exit_code == 0
    lines = (tmp_path / "run" / "records" / "0000.jsonl").read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["ok"] * 4
    assert {one.status for one in aside(tmp_path / "run")} == {"failed"}
