"""The committed reference run: the same tokens and counts come out today, and every claim of lossless holds."""

from dataclasses import replace
from pathlib import Path

from harness.config import RunConfig
from harness.measure.summary import summarise
from harness.runner import run
from harness.store import Record, Store
from tests.watch import Quiet

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = 3


def counts(record: Record) -> list[object]:
    """What does not depend on the machine."""
    return [(turn.tokens, turn.stop, turn.steps.tokens, turn.steps.forwards, turn.steps.positions, turn.steps.drafted,
             turn.steps.accepted, turn.steps.draft_forwards) for turn in record.turns]


def test_the_first_examples_come_out_the_same(tmp_path: Path) -> None:
    config = replace(RunConfig.from_toml(ROOT / "demo.toml"), limit=EXAMPLES, output=tmp_path / "run")
    outcome = run(config, Quiet(), "decodebench run --config demo.toml")
    assert (outcome.failed, outcome.samples) == (0, EXAMPLES * 8 * 3)
    before = {record.key: record for record in Store.open(ROOT / "results" / "demo").records()}
    for record in Store.open(outcome.folder).records():
        assert counts(record) == counts(before[record.key]), record.key
        assert record.scores == before[record.key].scores


def test_the_reference_run_is_complete_and_lossless() -> None:
    store = Store.open(ROOT / "results" / "demo")
    summary = summarise(store)
    assert (len(summary), int(summary["failed"].sum()), set(summary["samples"])) == (24, 0, {60})
    exact = summary[summary["name"].isin(["greedy", "speculative", "prompt_lookup"])]
    assert (exact["same_as_baseline"] == 1).all()
    greedy = summary[summary["name"] == "greedy"].set_index("task")["quality"]
    assert ((greedy > 0.4) & (greedy < 0.98)).all(), "solves some and fails some"
