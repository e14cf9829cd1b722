"""The committed runs of real models: complete, without the rows of their tasks, and the figures of the README."""

import re
from pathlib import Path

import pytest

from benchmarks.readme import real_tables
from harness.measure.summary import summarise
from harness.store.folder import Store

ROOT = Path(__file__).resolve().parents[2]
RUNS = {  # number of strategies, and the largest difference of two logits where an answer parts from greedy's
    "qwen-0.5b/humaneval": (16, 0.125), "qwen-0.5b/gsm8k": (6, None), "qwen-1.5b/humaneval": (6, 0.125),
    "qwen-1.5b/spec_bench": (4, 0.125), "smollm2/mt_bench": (10, 0.25), "smollm2/humaneval": (10, 0.375),
    "smollm2/gsm8k_chat": (7, 0.25), "smollm2/spec_bench": (5, None)}


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest) -> tuple[Store, int, float | None]:
    return Store.open(ROOT / "results" / request.param), *RUNS[request.param]


def test_a_run_is_complete(run: tuple[Store, int, float | None]) -> None:
    store, strategies, _ = run
    summary = summarise(store)
    assert (len(summary), int(summary["failed"].sum()), set(summary["samples"])) == (strategies, 0, {40})


def test_a_run_holds_no_rows_of_its_task_and_no_paths(run: tuple[Store, int, float | None]) -> None:
    store, *_ = run
    assert not any(turn.prompt for record in store.records() for turn in record.turns)
    text = (store.folder / "manifest.json").read_text()
    assert not re.search(r'"/|/home|/root|/tmp', text)


def test_what_keeps_the_answers_of_greedy_differs_from_it_by_ties_alone(run: tuple[Store, int, float | None]) -> None:
    store, _, largest = run
    margins = [one.margin for one in store.divergences() if one.margin is not None]  # None: one answer has ended
    assert max(margins, default=None) == largest


def test_the_tables_are_those_of_the_runs() -> None:
    text, more, tables = (ROOT / "README.md").read_text(), (ROOT / "docs" / "real-models.md").read_text(), real_tables()
    assert tables.keys() == RUNS.keys()
    for run, table in tables.items():
        assert table in text + more, run
    first = text.index("| strategy |")
    assert any(text[first:].startswith(table) for table in tables.values()), "the first table is that of a real model"
