"""pass@k of a run, and its time-outs, against counting by hand."""

import math
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from harness.measure.summary import summarise
from harness.report.tables import notes, pass_columns
from harness.stats.pass_at_k import pass_at_k
from tests.runs import manifest, record, strategy, task, turn, write


def run(folder: Path, rights: dict[str, list[int]], late: int = 0) -> "dict[str, Any]":
    """The summary of a run of one strategy with these right and wrong samples, `late` of them out of time."""
    records = []
    for example, scores in rights.items():
        for number, right in enumerate(scores):
            one = record("code", example, "top_p", [turn([2], [0.1])], right, sample=number)
            out = not right and late > sum(r.scores["timeout"] for r in records)
            records.append(one.model_copy(update={"scores": {"pass": float(right), "timeout": float(out)}}))
    described = manifest([strategy("top_p", "sampling", "distribution-preserving")], [task("code", headline="pass")])
    summary = summarise(write(folder / "run", described, records))
    return {**summary.iloc[0], "notes": notes(summary), "columns": [column.title for column in pass_columns(summary)]}


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_the_estimate_is_the_share_of_subsets_with_a_right_one(n: int) -> None:
    for right in range(n + 1):
        for k in range(1, n + 1):
            subsets = list(combinations([True] * right + [False] * (n - right), k))
            assert pass_at_k(n, right, k) == pytest.approx(fmean(map(any, subsets)))


def test_every_usual_k_that_the_samples_allow(tmp_path: Path) -> None:
    rights = {"a": [1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], "b": [0] * 12, "c": [1] * 12}
    found = run(tmp_path, rights)
    assert found["columns"] == ["pass@1", "pass@2", "pass@4", "pass@8", "pass@10", "pass@12"]
    assert found["pass_at_1"] == pytest.approx((2 / 12 + 0 + 1) / 3)
    assert found["pass_at_2"] == pytest.approx((1 - (10 * 9) / (12 * 11) + 0 + 1) / 3)
    assert found["pass_at_10"] == pytest.approx((1 - math.comb(10, 10) / math.comb(12, 10) + 0 + 1) / 3)
    assert found["pass_at_12"] == pytest.approx(2 / 3)


def test_a_k_that_one_problem_does_not_reach_is_left_out(tmp_path: Path) -> None:
    found = run(tmp_path, {"a": [1, 0, 0, 0], "b": [0, 1]})
    assert found["columns"] == ["pass@1", "pass@2"]
    assert found["pass_at_1"] == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert found["pass_at_2"] == pytest.approx((1 / 2 + 1) / 2)


def test_one_sample_has_no_columns(tmp_path: Path) -> None:
    assert run(tmp_path, {"a": [1], "b": [0]})["columns"] == []


def test_time_outs_are_counted_apart(tmp_path: Path) -> None:
    found = run(tmp_path, {"a": [1], "b": [0], "c": [0], "d": [0]}, late=2)
    assert found["quality"] == 0.25
    assert found["score_timeout"] == 0.5
    assert "top_p on code: 2 of 4 programs ran out of time" in found["notes"]
    assert not any("out of time" in note for note in run(tmp_path / "other", {"a": [0]})["notes"])
