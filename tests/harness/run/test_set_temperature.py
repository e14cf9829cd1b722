"""A task that sets temperatures: plain sampling obeys, and nothing else does."""

import json
from pathlib import Path

import pytest

from harness.plugins.registry import STRATEGIES
from harness.run.runner import run
from harness.store.config import RunConfig
from harness.store.folder import Store
from harness.store.schema import Record
from tests.pair import saved
from tests.watch import Quiet

TURNS = ["Hello.", "Again."]
QUESTIONS = [("writing", 0.7), ("math", 0.0), ("stem", 0.1)]


def decoded(tmp_path: Path, task: str, *strategies: str) -> tuple[Store, dict[tuple[str, str], Record]]:
    folder = tmp_path / "data" / "mt_bench"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"question_id": 81 + n, "category": kind, "turns": TURNS} for n, (kind, _) in enumerate(QUESTIONS)]
    (folder / "question.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = RunConfig(model=str(saved("llama")), tasks=(task,), strategies=strategies, max_new_tokens=24, device="cpu",
                       threads=1, data=tmp_path / "data", output=tmp_path / task)
    assert run(config, Quiet(), "decodebench run").failed == 0
    store = Store.open(tmp_path / task)
    return store, {(one.strategy, one.category): one for one in store.records()}


def tokens(record: Record) -> list[list[int]]:
    return [turn.tokens for turn in record.turns]


def test_plain_sampling_obeys_and_the_record_says_so(tmp_path: Path) -> None:
    store, found = decoded(tmp_path, "mt_bench_official", "temperature", "temperature:temperature=1.5", "top_p")
    plain = "temperature:temperature=1"
    for kind, set_to in QUESTIONS:
        assert found[plain, kind].temperature == set_to
        assert all(found[spec, kind].temperature is None for spec, _ in found if spec != plain)
    assert tokens(found[plain, "math"]) == tokens(found["greedy", "math"])
    assert tokens(found[plain, "writing"]) != tokens(found["greedy", "writing"])
    assert [plain in warning for warning in store.manifest.warnings if "sets temperatures" in warning] == [True]


def test_without_it_the_strategy_decides(tmp_path: Path) -> None:
    store, found = decoded(tmp_path, "mt_bench", "temperature")
    assert all(record.temperature is None for record in found.values())
    assert tokens(found["temperature:temperature=1", "math"]) != tokens(found["greedy", "math"])
    assert not any("sets temperatures" in warning for warning in store.manifest.warnings)


@pytest.mark.parametrize("name", [name for name in sorted(STRATEGIES.built_in()) if name != "temperature"])
def test_no_other_strategy_obeys(name: str) -> None:
    strategy = STRATEGIES.build(name)
    assert strategy.at(0.7) is strategy
