"""A run on a real Ray cluster of two nodes: the run of one machine, record by record, whatever is killed meanwhile."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.cluster.driver import Driver
from harness.cluster.driver import run as run_on_cluster
from harness.errors import UserError
from harness.run.runner import run
from harness.store.config import RunConfig
from harness.store.folder import Store
from harness.store.schema import Record
from tests.harness.store.test_merge import TASK, without_times
from tests.pair import saved
from tests.program import call
from tests.watch import Quiet

ray = pytest.importorskip("ray")
NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Return a cluster whose two nodes have room for one worker each."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    cluster.add_node(**NODE)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def address(cluster: Any) -> str:
    return str(cluster.address)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "numbered.py"
    path.write_text(TASK)
    return path


def config(plugin: Path, output: Path) -> RunConfig:
    return RunConfig(model=str(saved("llama")), tasks=("numbered",), plugins=(plugin,), threads=1, device="cpu",
                     strategies=("top_p:p=0.9", "prompt_lookup"), max_new_tokens=20, trace="full", output=output)


@pytest.fixture(scope="module")
def whole(plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return the run of one machine."""
    return Store.open(run(config(plugin, tmp_path_factory.mktemp("whole")), Quiet(), "run").folder)


class Counting(Quiet):
    """A watcher of a run on a cluster."""

    workers = 0

    def say(self, line: str) -> None:
        self.line = line


class Killing(Counting):
    """Kills a worker with -9 when some samples are finished."""

    killed = 0

    def finished(self, record: Record) -> None:
        super().finished(record)
        if len(self.records) == 4:
            worker = next(one for one in psutil.process_iter(["cmdline"])
                          if (one.info["cmdline"] or [""])[0] == "ray::Worker.decode")
            self.killed = worker.pid
            worker.send_signal(signal.SIGKILL)


def lines(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("shard-*/records/*.jsonl"))


def same(folder: Path, whole: Store) -> None:
    merged = Store.open(folder)
    records = list(merged.records())
    assert len(records) == 33
    assert {one.key: without_times(one) for one in records} == {
        one.key: without_times(one) for one in whole.records()}
    assert {one.key: one for one in merged.trees()} == {one.key: one for one in whole.trees()}
    assert merged.manifest.identity() == whole.manifest.identity()
    assert (merged.manifest.planned, merged.manifest.warnings) == (33, [])


def test_the_run_of_one_machine(address: str, plugin: Path, whole: Store, tmp_path: Path) -> None:
    watcher = Counting()
    outcome = run_on_cluster(config(plugin, tmp_path / "run"), address, "auto", watcher, "run")
    assert (outcome.samples, outcome.left, outcome.failed) == (33, 0, 0)
    assert watcher.line == "Loading the models on 2 workers of a Ray cluster."
    assert (watcher.workers, watcher.total, len(watcher.records)) == (2, 33, 33)
    assert len(list((tmp_path / "run").glob("shard-*-of-8/manifest.json"))) == 8
    same(tmp_path / "run", whole)


def test_a_killed_worker_loses_nothing(address: str, plugin: Path, whole: Store, tmp_path: Path,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    lost = list[str]()
    usual = Driver._lost
    monkeypatch.setattr(Driver, "_lost", lambda self, one: (lost.append(self.active[one].shard), usual(self, one))[1])
    watcher = Killing()
    outcome = run_on_cluster(config(plugin, tmp_path / "run"), address, "3", watcher, "run")
    assert watcher.killed
    assert len(lost) == 1
    assert outcome.left == 0
    assert len({one.key for one in watcher.records}) == len(watcher.records) == 33, "no sample is told twice"
    same(tmp_path / "run", whole)


def test_a_lost_machine_loses_nothing(cluster: Any, plugin: Path, whole: Store, tmp_path: Path) -> None:
    node = cluster.add_node(**NODE)

    class Losing(Counting):
        def finished(self, record: Record) -> None:
            super().finished(record)
            if len(self.records) == 10:
                cluster.remove_node(node, allow_graceful=False)

    watcher = Losing()
    outcome = run_on_cluster(config(plugin, tmp_path / "run"), cluster.address, "5", watcher, "run")
    assert (watcher.workers, outcome.left) == (3, 0)
    same(tmp_path / "run", whole)


def test_a_killed_driver_resumes(address: str, plugin: Path, whole: Store, tmp_path: Path) -> None:
    words = ["run", "-m", str(saved("llama")), "-t", "numbered", "--plugin", str(plugin), "-s",
             "top_p:p=0.9,prompt_lookup", "--max-new-tokens", "20", "--trace", "full", "--device", "cpu",
             "--threads", "1", "--ray", address, "--shards", "3", "-o", str(tmp_path / "run"), "--quiet"]
    driver = subprocess.Popen([sys.executable, "-m", "harness.cli", *words], start_new_session=True,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while lines(tmp_path / "run") < 3:
        assert driver.poll() is None
        time.sleep(0.01)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    assert 3 <= lines(tmp_path / "run") < 33
    done = call(*words)
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path / 'run'}/report/index.html\n"), done.output
    same(tmp_path / "run", whole)


def test_a_worker_that_fits_nowhere_is_refused(address: str, plugin: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="A worker needs 64 processor cores"):
        run_on_cluster(replace(config(plugin, tmp_path / "run"), threads=64), address, "auto", Counting(), "run")
    assert not (tmp_path / "run").exists()


def test_errors_of_workers_are_sentences(address: str, plugin: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model"):
        run_on_cluster(replace(config(plugin, tmp_path / "run"), model=str(plugin.parent)), address, "1", Counting(),
                       "run")
    assert not (tmp_path / "run").exists()
