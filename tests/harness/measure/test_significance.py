"""p-values, findable effects and warnings of a summary, recomputed another way."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from harness.measure.summary import summarise
from harness.report.tables import markdown, notes
from harness.store.folder import Store
from harness.store.schema import Record
from tests.runs import manifest, record, strategy, task, turn, write

SPECS = ["greedy", "speculative:k=4", "momentum", "beam:width=4"]
COST = {"greedy": 1.0, "speculative:k=4": 0.5, "momentum": 1.02, "beam:width=4": 1.5}


def build(folder: Path, examples: int = 24, repeats: int = 1, slower: float = 0.0, noise: float = 0.03) -> Store:
    """A run of four strategies whose times are drawn: `slower` is what a step gains over the run, as a log."""
    rng, records, began, block = np.random.default_rng(0), list[Record](), 0.0, 0
    for repeat in range(repeats):
        for number in range(examples):
            for spec in SPECS:
                trend = slower * block / max(1, examples * repeats - 1)
                seconds = [0.1, *(0.01 * COST[spec] * np.exp(trend + noise * rng.normal(size=9))).tolist()]
                right = number % 2 if spec != "momentum" else float(number % 2 and number > 16)
                made = record("math", f"e{number}", spec, [turn([1] * 10, seconds)], right, repeat=repeat)
                records.append(made.model_copy(update={"started": began, "block": block}))
                began += sum(seconds)
            block += 1
    described = manifest([strategy(spec) for spec in SPECS], [task("math", examples=examples)])
    return write(folder, described, records)


def rows(store: Store) -> pd.DataFrame:
    return summarise(store).set_index("strategy")


def test_p_values_are_those_of_the_raw_records(tmp_path: Path) -> None:
    store = build(tmp_path / "run")
    speeds = {key: {r.example: 10 / r.seconds for r in store.records() if r.strategy == key} for key in SPECS}
    raw = {}
    for spec in SPECS[1:]:
        logs = [math.log(speeds[spec][e] / speeds["greedy"][e]) for e in speeds["greedy"]]
        raw[spec] = float(ttest_1samp(logs, 0).pvalue)
    found = rows(store)
    assert found["speedup_p"][SPECS[1:]].tolist() == pytest.approx(list(raw.values()), rel=1e-6)
    ranked = sorted(raw, key=lambda spec: raw[spec])
    by_hand, worst = {}, 0.0
    for left, spec in zip((3, 2, 1), ranked, strict=True):
        worst = by_hand[spec] = max(worst, min(1.0, left * raw[spec]))
    assert found["speedup_p_holm"][ranked].tolist() == pytest.approx([by_hand[spec] for spec in ranked])
    assert found.loc["momentum", "quality_p"] == pytest.approx(2 / 2 ** 8), "eight problems lost, none won"
    assert found.loc["momentum", "quality_p_holm"] == pytest.approx(3 * 2 / 2 ** 8)
    assert found.loc["beam:width=4", "quality_p"] == 1.0
    assert math.isnan(found.loc["beam:width=4", "quality_findable"]), "nothing differed: nothing is known"
    assert found.loc["greedy", ["speedup_p", "quality_p", "speedup_findable"]].isna().all()


def test_where_interval_and_p_part_the_report_says_that_p_decides(tmp_path: Path) -> None:
    """Five problems and one strategy in three that is faster: 1.2 [1.0, 1.4] alone, but not among three."""
    factors = {"greedy": [1.0] * 5, "speculative:k=4": [1.05, 1.1, 1.2, 1.3, 1.4],
               "momentum": [1.1, 0.9, 1.05, 1, 0.95], "beam:width=4": [0.9, 1.1, 1, 1.05, 0.95]}
    records = [record("math", f"e{number}", spec, [turn([1] * 10, [0.1 / value] * 10)], 1)
               for spec in SPECS for number, value in enumerate(factors[spec])]
    described = manifest([strategy(spec) for spec in SPECS], [task("math", examples=5)])
    summary = summarise(write(tmp_path / "run", described, records))
    row = summary.set_index("strategy").loc["speculative:k=4"]
    assert row["speedup_low"] > 1
    assert row["speedup_p"] < 0.05 < row["speedup_p_holm"]
    text = markdown(summary)
    assert "p speed, Holm" in text
    assert "- p decides whether a difference from the baseline is significant (below 0.05)" in text
    alone = summary[summary["strategy"].isin(SPECS[:2])]
    assert "p decides" not in markdown(alone), "one comparison is not corrected"


def test_repeats_of_an_example_are_no_new_examples(tmp_path: Path) -> None:
    once, thrice = rows(build(tmp_path / "a")), rows(build(tmp_path / "b", repeats=3))
    assert thrice.loc["momentum", "quality_p"] == pytest.approx(once.loc["momentum", "quality_p"])
    few = rows(build(tmp_path / "c", examples=6))["speedup_findable"]
    assert (once["speedup_findable"] < few)[SPECS[1:]].all()


def test_a_machine_that_slows_down_is_said(tmp_path: Path) -> None:
    steady, slowing = build(tmp_path / "a"), build(tmp_path / "b", slower=0.2)
    assert rows(slowing)["drift"].iloc[0] == pytest.approx(math.exp(0.2), rel=0.03)
    assert notes(summarise(steady)) == []
    (note,) = notes(summarise(slowing))
    assert note.startswith("math: steps took 2")
    assert "more time at the end" in note


def test_a_resumed_run_has_one_clock(tmp_path: Path) -> None:
    store = build(tmp_path / "run", slower=0.2)
    records = list(store.records())
    middle = records[48].started
    resumed = [r if i < 48 else r.model_copy(update={"started": r.started - middle}) for i, r in enumerate(records)]
    again = write(tmp_path / "again", store.manifest, resumed)
    assert rows(again)["drift"].iloc[0] == pytest.approx(rows(store)["drift"].iloc[0], rel=0.01)


def test_the_noise_floor_comes_from_repeats_of_the_baseline(tmp_path: Path) -> None:
    assert rows(build(tmp_path / "a"))["noise_floor"].isna().all()
    store = build(tmp_path / "b", repeats=2, noise=0.1)
    floor = rows(store)["noise_floor"].iloc[0]
    times = {(r.example, r.repeat): r.seconds for r in store.records() if r.strategy == "greedy"}
    logs = np.array([math.log(times[f"e{i}", 0] / times[f"e{i}", 1]) for i in range(24)])
    assert math.log(floor) == pytest.approx(2.0687 * logs.std(ddof=1) / math.sqrt(24), rel=0.1)
    assert any(f"alone show speed-ups of {100 * (floor - 1):.2g} %" in note for note in notes(summarise(store)))


def test_times_that_are_far_off_are_counted(tmp_path: Path) -> None:
    store, slow = build(tmp_path / "a"), list[Record]()
    for one in store.records():
        if one.strategy == "greedy" and one.example in ("e3", "e4"):
            turns = [turn([1] * 10, [0.1, 0.5, *[0.01] * 8])]
            one = one.model_copy(update={"turns": turns, "seconds": 0.68})
        slow.append(one)
    other = write(tmp_path / "b", store.manifest, slow)
    assert rows(other)["far_times"].tolist() == [2, 0, 0, 0]
    assert "math: 2 of 96 times are outliers among those of their strategy; something else ran on the machine" in notes(
        summarise(other))
