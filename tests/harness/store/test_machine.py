"""A run that goes on, on a machine of another kind: its times are those of the first one, and tables say so."""

import math
from pathlib import Path

import pytest

from harness.measure.summary import summarise
from harness.run import manifest as manifests
from harness.run.runner import run
from harness.store.config import RunConfig
from harness.store.folder import Store
from harness.store.machine import machine_of
from tests.pair import saved
from tests.watch import Quiet


def config(folder: Path) -> RunConfig:
    return RunConfig(model=str(saved("llama")), tasks=("nano_math",), strategies=("prompt_lookup",), limit=4,
                     max_new_tokens=4, threads=1, device="cpu", output=folder / "run", texts=False)


def stopped(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(config(folder), Quiet(stop_after=4), "run")


def test_times_of_another_machine_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(tmp_path)
    here = manifests.environment
    monkeypatch.setattr(manifests, "environment", lambda *given: {
        **here(*given), "hardware": {**here(*given)["hardware"], "cpu": "another"}})
    watcher = Quiet()
    run(config(tmp_path), watcher, "run")
    store = Store.open(tmp_path / "run")
    times = [record.seconds for record in store.records()]
    assert [math.isnan(time) for time in times] == [False] * 4 + [True] * 4
    assert all(math.isnan(time) for record in list(store.records())[4:] for time in record.turns[0].steps.seconds)
    assert not any(math.isnan(record.seconds) for record in watcher.records), "the display knows them"
    (note,) = [text for text in store.manifest.warnings if text.startswith("Two kinds of machines")]
    assert "cpu another" in note
    assert "cpu another" not in machine_of(store.manifest)
    assert summarise(store)["samples"].tolist() == [4, 4]
    run(config(tmp_path), Quiet(), "run")
    assert store.manifest == Store.open(tmp_path / "run").manifest, "nothing was left to decode"
    assert summarise(store)["tokens_per_second"].notna().all()


def test_a_machine_of_the_same_kind_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(tmp_path)
    here = manifests.environment
    monkeypatch.setattr(manifests, "environment", lambda *given: {
        **here(*given), "platform": "a newer kernel", "hardware": {**here(*given)["hardware"], "memory_gb": 1.0}})
    run(config(tmp_path), Quiet(), "run")
    store = Store.open(tmp_path / "run")
    assert not any(math.isnan(record.seconds) for record in store.records())
    assert store.manifest.warnings == []
