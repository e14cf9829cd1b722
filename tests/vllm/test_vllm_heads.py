"""Heads that draft inside vLLM, as engine options: greedy stays greedy for any drafts."""

import json
from pathlib import Path

import pytest

from harness.store.folder import Store
from tests.vllm.heads import DRAFTS, make
from tests.vllm.test_vllm_runs import decodebench

pytestmark = pytest.mark.xdist_group("heads")  # one process: its tests share runs of engines that take long to start
ASKED = ("-s", "greedy", "-t", "nano_math", "--limit", "2", "--max-new-tokens", "24", "--no-texts")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("heads") / "run"
    assert decodebench("run", *ASKED, "-o", str(folder)).returncode == 0
    return Store.open(folder)


@pytest.mark.parametrize("method", ["medusa", "eagle", "eagle3"])
def test_greedy_is_greedy_whatever_a_head_drafts(method: str, reference: Store, tmp_path: Path) -> None:
    config = {"method": method, "model": str(make(method, tmp_path / "head")), "num_speculative_tokens": DRAFTS}
    done = decodebench("run", "--backend", "vllm", *ASKED, "--engine", f"speculative_config={json.dumps(config)}", "-o",
                       str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    store = Store.open(tmp_path / "run")
    wanted = {record.example: record.turns[0].tokens for record in reference.records()}
    assert {record.example: record.turns[0].tokens for record in store.records()} == wanted
    drafted = [sum(record.turns[0].steps.drafted) for record in store.records()]
    assert all(count >= DRAFTS for count in drafted), "the head was asked"
    [engine] = store.manifest.environment["backend"]["engines"].values()
    assert engine["speculative"]["method"] == method
