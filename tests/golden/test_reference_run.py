"""The committed reference run: its tokens and counts are reproduced, and every lossless strategy is lossless."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.readme import tables
from harness.measure.summary import samples, summarise
from harness.run.runner import run
from harness.store.config import RunConfig
from harness.store.folder import Store
from harness.store.schema import Record
from tests.watch import Quiet

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = 1  # of each of six tasks, for eight strategies


def counts(record: Record) -> list[object]:
    """Return the counts that do not depend on the machine."""
    return [(turn.tokens, turn.stop, turn.steps.tokens, turn.steps.forwards, turn.steps.positions, turn.steps.drafted,
             turn.steps.accepted, turn.steps.draft_forwards) for turn in record.turns]


@pytest.fixture(scope="module")
def store() -> Store:
    return Store.open(ROOT / "results" / "demo")


@pytest.fixture(scope="module")
def summary(store: Store) -> pd.DataFrame:
    return summarise(store)


@pytest.mark.slow
def test_the_first_examples_come_out_the_same(tmp_path: Path) -> None:
    config = replace(RunConfig.from_toml(ROOT / "demo-full.toml"), limit=EXAMPLES, output=tmp_path / "run")
    outcome = run(config, Quiet(), "decodebench run --config demo-full.toml")
    assert (outcome.failed, outcome.samples) == (0, EXAMPLES * 8 * 6)
    before = {record.key: record for record in Store.open(ROOT / "results" / "demo").records()}
    for record in Store.open(outcome.folder).records():
        assert counts(record) == counts(before[record.key]), record.key
        assert record.scores.items() >= before[record.key].scores.items(), "a task may have got more scores since"


def test_the_reference_run_is_complete_and_lossless(summary: pd.DataFrame) -> None:
    assert (len(summary), int(summary["failed"].sum()), set(summary["samples"])) == (48, 0, {40})
    exact = summary[summary["name"].isin(["greedy", "speculative", "prompt_lookup"])]
    assert (exact["same_as_baseline"] == 1).all()
    greedy = summary[summary["name"] == "greedy"].set_index("task")["quality"]
    assert ((greedy > 0.4) & (greedy < 0.98)).drop("nano_story").all(), "solves some and fails some"


def test_the_reference_run_shows_what_decoding_research_is_about(store: Store, summary: pd.DataFrame) -> None:
    table = summary.set_index(["name", "task"])
    lookup, draft = table.loc["prompt_lookup"], table.loc["speculative"]
    assert (lookup.loc[["nano_edit", "nano_summary"], "tau_pooled"] > 2.5).all()
    assert (lookup.loc[["nano_math", "nano_story"], "tau_pooled"] < 2).all()
    assert draft.loc["nano_math", "accept_rate"] > max(0.75, draft.loc["nano_story", "accept_rate"])
    frame = samples(store)
    stories = frame[frame["task"] == "nano_story"].assign(name=frame["strategy"].str.split(":").str[0])
    repeated = stories.groupby("name")["score_rep_4"].mean()
    assert repeated["greedy"] > 2 * repeated["top_p"]
    assert max(repeated["contrastive_search"], repeated["momentum"]) < repeated["greedy"] / 2


def test_the_tables_of_the_readme_are_those_of_the_reference_run() -> None:
    assert all(table in (ROOT / "README.md").read_text() for table in tables().split("\n\n"))
