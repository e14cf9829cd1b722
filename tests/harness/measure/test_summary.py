import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.measure.summary import combine, overall, samples, summarise
from harness.stats.pass_at_k import pass_at_k
from harness.store.folder import Store
from harness.store.schema import Record
from tests.runs import manifest, record, strategy, task, turn, write

GREEDY, SPEC, BEAM, MEDUSA = "greedy", "speculative:k=4", "beam:width=4", "medusa"
STRATEGIES = [strategy(GREEDY), strategy(SPEC, "speculative"), strategy(BEAM, "search", "changes-output"),
              strategy(MEDUSA, "speculative", unsupported="the model has no heads")]
TASKS = [task("math"), task("chat", unscored="needs a judge")]
RECORDS = [
    record("math", "a", GREEDY, [turn([1, 1, 1, 1], [0.1] * 4)], 1),  # 10 tokens a second
    record("math", "b", GREEDY, [turn([1, 1], [0.1] * 2)], 0),  # 10
    record("math", "a", SPEC, [turn([1, 3], [0.025] * 2, drafted=[0, 4], accepted=[0, 2], draft_forwards=[0, 4])], 1),
    record("math", "b", SPEC, [turn([1, 1], [0.1, 0.3], drafted=[0, 4], draft_forwards=[0, 4])], 0),
    record("math", "a", BEAM, [turn([3], [0.6], ids=[0, 1, 9], stop="length")], 1),
    record("math", "b", BEAM, error="RuntimeError: out of memory"),
    record("chat", "c", GREEDY, [turn([1, 1], [0.1] * 2, ids=[5, 6]), turn([1], [0.2], ids=[7])]),
    record("chat", "c", SPEC, [turn([0, 2], [0.1] * 2, ids=[5, 6]), turn([1], [0.2], ids=[8])]),
    record("chat", "c", BEAM, [turn([0], [0.1], ids=[])]),
]


def cell(summary: pd.DataFrame, task: str, strategy: str) -> Any:
    return summary[(summary["task"] == task) & (summary["strategy"] == strategy)].iloc[0]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return write(tmp_path / "run", manifest(STRATEGIES, TASKS), RECORDS)


@pytest.fixture
def summary(store: Store) -> pd.DataFrame:
    return summarise(store)


def test_every_cell_has_a_row_whatever_became_of_it(summary: pd.DataFrame) -> None:
    assert list(zip(summary["task"], summary["strategy"], strict=True)) == [
        (of, spec) for of in ("math", "chat") for spec in (GREEDY, SPEC, BEAM, MEDUSA)]
    assert list(summary["samples"]) == [2, 2, 1, 0, 1, 1, 1, 0]
    assert list(summary["failed"]) == [0, 0, 1, 0, 0, 0, 0, 0]
    absent = cell(summary, "math", MEDUSA)
    assert absent["unsupported"] == "the model has no heads"
    assert absent[["quality", "tokens_per_second", "speedup", "tau_pooled", "accept_rate", "truncated"]].isna().all()


def test_speed_is_measured_against_the_baseline_on_the_same_example(summary: pd.DataFrame) -> None:
    row = cell(summary, "math", SPEC)  # 80 and 5 tokens a second: 8 and 0.5 times the baseline
    assert row["speedup"] == pytest.approx(2)
    reach = 12.7062047 * math.log(4)  # t quantile with one degree of freedom, times the standard error
    ends = np.log(row[["speedup_low", "speedup_high"]].tolist())
    assert ends == pytest.approx([math.log(2) - reach, math.log(2) + reach])
    assert row["tokens_per_second"] == pytest.approx(6 / 0.45)
    assert row["decode_tokens_per_second"] == pytest.approx(4 / 0.325)
    assert row["ttft_median"] == pytest.approx(0.0625)
    base = cell(summary, "math", GREEDY)
    assert base["speedup"] == 1
    assert math.isnan(base["speedup_low"])


def test_counts_are_pooled_over_tokens(summary: pd.DataFrame) -> None:
    row = cell(summary, "math", SPEC)
    assert row["tau_pooled"] == pytest.approx(4 / 2)
    assert row["forwards_per_token"] == pytest.approx(4 / 6)
    assert row["draft_forwards_per_token"] == pytest.approx(8 / 6)
    assert row["positions_per_token"] == pytest.approx(12 / 6)
    assert row["accept_rate"] == pytest.approx(2 / 8)
    assert row["tokens_mean"] == 3
    assert math.isnan(cell(summary, "math", BEAM)["tau_pooled"])  # it yields once
    assert math.isnan(cell(summary, "math", GREEDY)["accept_rate"])  # it drafts nothing


def test_quality_has_an_interval_only_from_two_examples(summary: pd.DataFrame) -> None:
    assert cell(summary, "math", GREEDY)[["quality", "quality_low", "quality_high"]].tolist() == [0.5, 0, 1]
    beam = cell(summary, "math", BEAM)
    assert beam["quality"] == 1
    assert math.isnan(beam["quality_low"])
    unscored = cell(summary, "chat", GREEDY)
    assert math.isnan(unscored["quality"])
    assert unscored["quality_note"] == "needs a judge"


def test_answers_are_compared_with_the_baselines(summary: pd.DataFrame) -> None:
    assert cell(summary, "math", SPEC)["same_as_baseline"] == 1
    beam = cell(summary, "math", BEAM)
    assert beam[["same_as_baseline", "first_difference", "truncated"]].tolist() == [0, 2, 1]
    assert cell(summary, "chat", SPEC)["first_difference"] == 2  # the first token of the second turn
    assert cell(summary, "chat", BEAM)["first_difference"] == 0


def test_an_empty_answer_has_no_speed(store: Store, summary: pd.DataFrame) -> None:
    row = cell(summary, "chat", BEAM)
    assert row["tokens_per_second"] == 0
    assert math.isnan(row["speedup"])
    assert math.isnan(row["forwards_per_token"])
    frame: Any = samples(store).set_index(["task", "example", "strategy"])
    assert math.isnan(frame.loc[("chat", "c", BEAM), "ttft"])
    assert frame.loc[("chat", "c", SPEC), "ttft"] == pytest.approx(0.2)  # its first step kept nothing
    failed = frame.loc[("math", "b", BEAM)]
    assert failed["error"] == "RuntimeError: out of memory"
    assert math.isnan(failed["tokens"])


def test_means_over_tasks_need_every_task(summary: pd.DataFrame) -> None:
    means = overall(summary).set_index("strategy")
    ratio = (3 / 0.4) / (3 / 0.4)
    assert means.loc[SPEC, "speedup"] == pytest.approx(math.sqrt(2 * ratio))
    assert means.loc[SPEC, "quality_mean"] == 0.5  # over the one scored task
    assert means.loc[GREEDY, "speedup"] == 1
    assert means.loc[[BEAM, MEDUSA], "speedup"].isna().all()
    assert means.loc[BEAM, "failed"] == 1


def test_a_run_without_records_is_summarised(tmp_path: Path) -> None:
    summary = summarise(write(tmp_path / "run", manifest(STRATEGIES, TASKS), []))
    assert len(summary) == 8
    assert (summary["samples"] == 0).all()
    assert overall(summary)["speedup"].isna().all()


def test_runs_are_told_apart(store: Store, tmp_path: Path) -> None:
    other = write(tmp_path / "again" / "run", manifest(STRATEGIES[:1], TASKS), RECORDS[:1])
    both = combine([store, other])
    assert list(both["run"].unique()) == ["run-1", "run-2"]
    assert len(overall(both)) == 5
    assert "run" not in combine([store])


def several(score: dict[str, list[int]]) -> list[Record]:
    return [record("math", example, "top_p", [turn([2], [0.1])], right, sample=number, repeat=repeat)
            for example, rights in score.items() for number, right in enumerate(rights) for repeat in (0, 1)]


def test_several_samples_are_paired_with_the_only_one_of_the_baseline(tmp_path: Path) -> None:
    base = [record("math", example, GREEDY, [turn([1], [0.1])], 1, repeat=repeat)
            for example in "ab" for repeat in (0, 1)]
    described = manifest([strategy(GREEDY), strategy("top_p", "sampling", "distribution-preserving")], TASKS[:1])
    store = write(tmp_path / "run", described, base + several({"a": [1, 0, 0], "b": [1, 1, 0]}))
    row = cell(summarise(store), "math", "top_p")
    assert row["paired"] == 12
    assert row["speedup"] == pytest.approx(2)
    assert row["pass_at_1"] == pytest.approx(0.5)
    assert row["pass_at_3"] == 1


def test_pass_at_k() -> None:
    assert pass_at_k(5, 2, 2) == pytest.approx(1 - (3 / 5) * (2 / 4))
    assert [pass_at_k(4, 0, 2), pass_at_k(4, 4, 1), pass_at_k(4, 3, 2)] == [0, 1, 1]
    with pytest.raises(ValueError, match="pass@5"):
        pass_at_k(4, 1, 5)
