"""Shards of a run on a tiny model, merged: the same records, tables and refusals, whatever their order."""

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from harness.errors import UserError
from harness.measure.raw import read
from harness.measure.speed import speed_table
from harness.measure.summary import summarise
from harness.run.runner import run
from harness.store.config import RunConfig
from harness.store.folder import Store
from harness.store.merge import merge, parts_in
from harness.store.progress import progress, runs_in
from harness.store.schema import Record
from tests.pair import saved
from tests.watch import Quiet

SHARDS = 8
TASK = '''"""Words to go on from."""
from dataclasses import dataclass
from typing import ClassVar
from harness.plugins.task import Example, Task

@dataclass(frozen=True)
class Numbered(Task):
    version: ClassVar[int] = 1
    source: ClassVar[str] = "test"
    headline: ClassVar[str] = "length"
    max_new_tokens: ClassVar[int] = 6

    def examples(self, data):
        return [Example(str(i), (f"one two {i}",)) for i in range(11)]

    def score(self, example, answers):
        return {"length": float(len(answers[0]))}
'''


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a whole run, `whole`, and its shards in `sharded`."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "numbered.py").write_text(TASK)
    config = RunConfig(model=str(saved("llama")), tasks=("numbered",), plugins=(folder / "numbered.py",), threads=1,
                       device="cpu", strategies=("top_p:p=0.9", "prompt_lookup"), seed=3, trace="full")
    run(replace(config, output=folder / "whole"), Quiet(), "whole")
    for number in range(1, SHARDS + 1):
        run(replace(config, output=folder / "sharded", shard=f"{number}/{SHARDS}"), Quiet(), "shard")
    return folder


def without_times(record: Record) -> dict[str, object]:
    plain = record.model_dump(exclude={"seconds", "started", "peak_bytes", "order"})
    for turn in plain["turns"]:
        del turn["steps"]["seconds"]
    return plain


def test_a_merged_run_has_the_records_of_the_whole_run(runs: Path, tmp_path: Path) -> None:
    merged, whole = merge([runs / "sharded"], tmp_path / "merged", "merge").store, Store.open(runs / "whole")
    assert {one.key: without_times(one) for one in merged.records()} == {
        one.key: without_times(one) for one in whole.records()}
    assert merged.manifest.identity() == whole.manifest.identity()
    assert merged.manifest.planned == 33
    assert merged.expected() == whole.expected()
    assert {one.key: one for one in merged.trees()} == {one.key: one for one in whole.trees()}
    sizes = [part.done for part in parts_in([runs / "sharded"])]
    assert (sum(sizes), max(sizes) - min(sizes)) == (33, 3)  # three strategies, one or two examples


def test_order_and_doubles_change_nothing(runs: Path, tmp_path: Path) -> None:
    shards = sorted((runs / "sharded").glob("shard-*"))
    doubled = [shutil.copytree(shard, tmp_path / f"again-{shard.name}") for shard in shards[:2]]
    several = [*shards, *doubled]
    random.Random(0).shuffle(several)
    first = merge([runs / "sharded"], tmp_path / "first", "merge")
    second = merge(several, tmp_path / "second", "merge")
    pd.testing.assert_frame_equal(summarise(first.store), summarise(second.store))
    assert first.notes == second.notes == []


def changed(folder: Path, to: Path, change: Callable[[dict[str, object]], dict[str, object]]) -> Path:
    """Return a copy of a shard with another manifest."""
    shutil.copytree(folder, to)
    store = Store.open(to)
    store.replace_manifest(store.manifest.model_copy(update=change(dict(store.manifest))))
    return to


@pytest.mark.parametrize(("change", "differs"), [
    (lambda own: {"config": {**own["config"], "seed": 4}}, "config.seed"),
    (lambda own: {"tasks": [own["tasks"][0].model_copy(update={"data_hash": "other"})]}, "tasks"),
    (lambda own: {"model": own["model"].model_copy(update={"fingerprint": "other"})}, "model.fingerprint"),
    (lambda own: {"strategies": own["strategies"][:2]}, "strategies"),
    (lambda own: {"config": {**own["config"], "shard": "3/4"}}, "shards"),
])
def test_a_shard_of_another_run_is_refused_by_name(
        change: Callable[[dict[str, object]], dict[str, object]], differs: str, runs: Path, tmp_path: Path) -> None:
    odd = changed(runs / "sharded" / "shard-3-of-8", tmp_path / "odd", change)
    with pytest.raises(UserError, match=rf"odd is of another run than .* \({differs} differs\)"):
        merge([odd, runs / "sharded"], tmp_path / "merged", "merge")
    assert not (tmp_path / "merged").exists()


def test_times_are_those_of_one_kind_of_machine(runs: Path, tmp_path: Path) -> None:
    def faster(own: dict[str, object]) -> dict[str, object]:
        return {"environment": {**Store.open(runs / "whole").manifest.environment, "threads": 64}}

    shutil.copytree(runs / "sharded", tmp_path / "some", ignore=lambda _, names: {"shard-1-of-8"} & set(names))
    other = changed(runs / "sharded" / "shard-1-of-8", tmp_path / "shard-1-of-8", faster)
    merged = merge([tmp_path / "some", other], tmp_path / "merged", "merge")
    usual, pure = Store.open(merged.store.folder), merge([tmp_path / "some"], tmp_path / "pure", "merge")
    assert "Two kinds of machines" in usual.manifest.warnings[0]
    assert "64 threads" in usual.manifest.warnings[0]
    both, alone = summarise(usual), summarise(pure.store)
    assert both["samples"].sum() == 33
    for name in ("tokens_per_second", "decode_tokens_per_second", "speedup", "speedup_low", "ttft_median"):
        pd.testing.assert_series_equal(both[name], alone[name])
    speeds, fewer = (speed_table(store, read(store)) for store in (usual, pure.store))
    for name in ("ttft_p50", "tpot_mean", "itl_token_p99", "tokens_per_second_mean", "speedup_totals"):
        pd.testing.assert_series_equal(speeds[name], fewer[name])
    back = merge([tmp_path / "some", other], tmp_path / "merged", "merge", machine="64 threads")
    lone = merge([other], tmp_path / "lone", "merge")
    speeds, fewer = (summarise(one.store)["tokens_per_second"] for one in (back, lone))
    pd.testing.assert_series_equal(speeds, fewer)
    with pytest.raises(UserError, match=r"--machine must name one of these: .*64 threads"):
        merge([tmp_path / "some", other], tmp_path / "merged", "merge", machine="threads")


def test_what_is_missing_is_said_and_the_whole_run_goes_on(runs: Path, tmp_path: Path) -> None:
    some = [runs / "sharded" / f"shard-{number}-of-8" for number in (1, 2, 4, 5, 6, 7, 8)]
    merged = merge(some, tmp_path / "merged", "merge")
    assert merged.store.manifest.warnings[0] == "Not complete: shards 3 of 8 are missing."
    config = RunConfig(model=str(saved("llama")), tasks=("numbered",), plugins=(runs / "numbered.py",), threads=1,
                       device="cpu", strategies=("top_p:p=0.9", "prompt_lookup"), seed=3, trace="full",
                       output=tmp_path / "merged")
    assert run(config, Quiet(), "whole").samples == 33
    whole = Store.open(tmp_path / "merged")
    assert (len(whole.finished()[0]), whole.manifest.warnings, whole.manifest.planned) == (33, [], 33)
    with pytest.raises(UserError, match="has samples of its own"):
        merge(some, tmp_path / "merged", "merge")


def test_whole_runs_and_other_folders_are_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a whole run, not a shard"):
        merge([runs / "whole"], tmp_path / "merged", "merge")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not a run of decodebench"):
        merge([runs / "sharded"], tmp_path, "merge")


def test_more_shards_than_blocks_are_refused(runs: Path) -> None:
    config = RunConfig(model=str(saved("llama")), tasks=("numbered",), plugins=(runs / "numbered.py",), threads=1,
                       device="cpu", output=runs / "many", shard="40/40")
    with pytest.raises(UserError, match="give at most 11 shards"):
        run(config, Quiet(), "shard")
    assert not (runs / "many").exists()


def test_progress_tells_what_is_left(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "sharded" / "shard-2-of-8", tmp_path / "run" / "shard-2-of-8")
    file = tmp_path / "run" / "shard-2-of-8" / "records" / "0000.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:2]) + lines[2][:40])
    (store,) = runs_in([tmp_path / "run"])
    found = progress(store)
    assert (found.name, found.done, found.failed, found.left, found.state) == (
        "run/shard-2-of-8", 2, 0, len(lines) - 2, "stopped")
    assert found.seconds_left == pytest.approx(
        sum(one.seconds for one in store.records()) / 2 * (len(lines) - 2))
