"""What a worker tells of its shards, how many workers fit on a node, and into how many shards a run is split."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.cluster.driver import Kept, number_of_shards
from harness.cluster.files import read_files
from harness.cluster.ray_cluster import Needs, needs
from harness.cluster.worker import Begun, Described, Ended, Refused, Worker
from harness.errors import UserError
from harness.run.runner import run
from harness.store.config import RunConfig
from harness.store.folder import Store
from harness.store.machine import machine_of
from harness.store.schema import Record
from tests.harness.store.test_merge import without_times
from tests.pair import saved
from tests.program import call
from tests.watch import Quiet

NODES = [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 8.0}, {"memory": 1.0}]


def config(**changes: object) -> RunConfig:
    return replace(RunConfig(model=str(saved("llama")), tasks=("nano_math",), strategies=("prompt_lookup",), limit=4,
                             max_new_tokens=4, threads=1, device="cpu", texts=False), **changes)


def worker(**changes: object) -> Worker:
    return Worker(config(**changes), "run", ".", 2)


def test_a_worker_describes_the_whole_run() -> None:
    described = worker().describe()
    assert isinstance(described, Described)
    assert (described.samples, described.blocks) == (8, 4)
    assert "workers 2" in machine_of(described.manifest), "its times are those of a shared machine"
    refused = worker(tasks=("nano_mth",)).describe()
    assert isinstance(refused, Refused)
    assert "Did you mean 'nano_math'?" in str(refused.error())


def test_a_shard_goes_on_from_the_files_of_another_worker(tmp_path: Path) -> None:
    run(config(output=tmp_path / "own", shard="2/2"), Quiet(), "run")
    wanted = Store.open(tmp_path / "own" / "shard-2-of-2")
    (tmp_path / "kept").mkdir()
    first, kept = worker().decode("2/2", {}, 0.0), Kept(tmp_path / "kept")
    for message in first:
        if isinstance(message, Begun | Record):
            kept.take(message)
        if isinstance(message, Record):
            break  # it is lost
    kept.close()
    messages = [one for one in worker().decode("2/2", read_files(tmp_path / "kept"), 0.0) if not isinstance(one, str)]
    assert [type(one) for one in messages] == [Begun, Record, Record, Record, Ended]
    again = Kept(tmp_path / "kept")
    for message in messages:
        assert not isinstance(message, Refused)
        again.take(message)
    again.close()
    found = Store.open(tmp_path / "kept")
    assert [without_times(one) for one in found.records()] == [without_times(one) for one in wanted.records()]
    assert found.expected() == wanted.expected()
    assert found.has_divergences
    first.close()


def test_a_shard_of_another_run_is_refused(tmp_path: Path) -> None:
    run(config(output=tmp_path / "own", shard="1/2", seed=7), Quiet(), "run")
    (message,) = worker().decode("1/2", read_files(tmp_path / "own" / "shard-1-of-2"), 0.0)
    assert isinstance(message, Refused)
    assert "seed differs" in message.sentence


def test_needs_of_a_worker() -> None:
    assert needs(config(device="auto", threads=None), NODES) == Needs(1, 1)
    assert needs(config(device="auto", threads=4), NODES) == Needs(4, 1)
    assert needs(config(device="cpu"), NODES) == Needs(1, 0)
    assert needs(config(device="auto", threads=None), NODES[1:]) == Needs(8, 0), "a whole node"
    assert needs(config(device="auto", threads=None, device_map="auto"), NODES) == Needs(1, 4)
    parallel = RunConfig(backend="vllm", engine=("tensor_parallel_size=2",))
    assert needs(parallel, NODES) == Needs(1, 2)


def test_workers_that_fit() -> None:
    assert [Needs(1, 1).workers(node) for node in NODES] == [4, 0, 0]
    assert [Needs(4, 0).workers(node) for node in NODES] == [4, 2, 0]
    assert Needs(1, 2).workers(NODES[0]) == 2


def test_the_number_of_shards(tmp_path: Path) -> None:
    assert number_of_shards("auto", tmp_path, 100, 3) == 12
    assert number_of_shards("auto", tmp_path, 5, 3) == 5
    assert number_of_shards("7", tmp_path, 100, 3) == 7
    with pytest.raises(UserError, match="give at most 5 shards"):
        number_of_shards("6", tmp_path, 5, 3)
    (tmp_path / "shard-2-of-4").mkdir()
    assert number_of_shards("auto", tmp_path, 100, 3) == number_of_shards("4", tmp_path, 100, 3) == 4
    with pytest.raises(UserError, match="has shards of 4: give --shards 4"):
        number_of_shards("5", tmp_path, 100, 3)


@pytest.mark.parametrize(("options", "sentence"), [
    (["--shards", "3"], "--shards is for --ray"),
    (["--ray", "--shards", "0"], "--shards must be a number from 1 on, or auto, not '0'"),
    (["--ray", "--shard", "1/2"], "leave --shard out"),
    (["--ray", "--device", "cuda:1"], "a GPU of its own"),
    (["--shards", "3", "--ray", "ray://h:1"], "on a node of the cluster"),
    (["--ray", "127.0.0.1:9"], "No Ray cluster answers at '127.0.0.1:9'"),
    (["--ray", "127.0.0.1:999999"], "No Ray cluster answers"),
    (["--ray", "node"], "must be auto, HOST:PORT, or come without an address"),
    (["--ray", "--precision", "0.1"], "leave it or --ray"),
    (["--ray", "--dry-run"], "leave --ray out"),
    (["--ray", "--backend", "openai", "-m", "x", "--base-url", "http://localhost:1"], "loaded by a server"),
])
def test_wrong_options_for_a_cluster(options: list[str], sentence: str, tmp_path: Path) -> None:
    done = call("run", *options, "-o", tmp_path / "run")
    assert (done.exit_code, sentence in done.stderr, done.stdout) == (2, True, ""), done.stderr
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = call("run", "--ray")
    assert (done.exit_code, "pip install 'decodebench[ray]'" in done.stderr) == (2, True)
