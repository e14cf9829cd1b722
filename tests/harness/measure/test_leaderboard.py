"""The leaderboard: its order, its ranks, and figures of all tasks recomputed by hand."""

import math
from typing import Any

import pandas as pd
import pytest

from harness.measure.judged import SCORE
from harness.measure.leaderboard import RULE, leaderboard, rule
from harness.measure.significance import FEW
from tests.runs import manifest, strategy, task

NAN = math.nan


def cell(strategy: str, speedup: float, low: float, high: float, gain: float = 0.0, p: float = NAN, task: str = "math",
         same: float = 1.0, samples: int = 10, **more: Any) -> dict[str, Any]:
    return {"task": task, "strategy": strategy, "name": strategy, "family": "f", "guarantee": "g", "unsupported": "",
            "samples": samples, "failed": 0, "quality": 0.5 + gain, "quality_metric": "exact", "quality_gain": gain,
            "quality_gain_low": gain - 0.1, "quality_gain_high": gain + 0.1, "quality_p_holm": p, "speedup": speedup,
            "speedup_low": low, "speedup_high": high, "same_as_baseline": same, **more}


BASE = cell("greedy", 1.0, NAN, NAN)


def board(*rows: dict[str, Any]) -> pd.DataFrame:
    tasks = [task(name, examples=10) for name in {row["task"]: None for row in rows}]
    return leaderboard(pd.DataFrame(rows), dict.fromkeys(("", "x", "y"), manifest([strategy("greedy")], tasks)))


def ranks(*rows: dict[str, Any]) -> list[tuple[str, float]]:
    found = board(*rows)
    return list(zip(found["strategy"], found["rank"], strict=True))


def test_strategies_share_a_rank_while_their_intervals_overlap_that_of_its_first() -> None:
    found = ranks(BASE, cell("a", 1.2, 1.1, 1.3), cell("b", 1.5, 1.25, 1.6), cell("c", 1.1, 1.0, 1.24),
                  cell("d", 0.9, 0.8, 1.0))
    assert found == [("b", 1), ("a", 1), ("c", 3), ("greedy", 3), ("d", 3)]


def test_proven_worse_answers_come_last_and_unproven_ones_do_not() -> None:
    found = ranks(cell("a", 3.0, 2.9, 3.1, gain=-0.2, p=0.01), BASE, cell("b", 2.0, 1.9, 2.1, gain=-0.2, p=0.2),
                  cell("c", 0.5, 0.4, 0.6, gain=0.2, p=0.01), cell("d", 2.9, 2.8, 3.0, gain=-0.1, p=0.04))
    assert found == [("b", 1), ("greedy", 2), ("c", 3), ("a", 4), ("d", 4)]


def test_what_could_not_run_has_no_rank() -> None:
    lost = cell("b", NAN, NAN, NAN, samples=0, same=NAN, quality=NAN, quality_gain=NAN, unsupported="needs a draft")
    found = ranks(lost, BASE, cell("a", 1.5, 1.4, 1.6))
    assert [name for name, _ in found] == ["a", "greedy", "b"]
    assert math.isnan(found[-1][1])
    partly = board(BASE, cell("a", 2, 1.9, 2.1), BASE | {"task": "code"}, lost | {"strategy": "a", "task": "code"})
    assert partly.set_index("strategy").loc["a", ["rank", "gain", "speedup"]].isna().all()


def test_tasks_are_combined_as_independent() -> None:
    found = board(BASE, cell("a", 2.0, 1.0, 4.0, gain=0.2, same=0.5), BASE | {"task": "code"},
                  cell("a", 0.5, 0.25, 1.0, gain=0.1, task="code", same=1.0, samples=30),
                  BASE | {"task": "chat", "quality": NAN, "quality_gain": NAN},
                  cell("a", 1.0, 0.5, 2.0, task="chat", quality=NAN, quality_gain=NAN)).set_index("strategy").loc["a"]
    reach = 2 ** (3 ** 0.5 / 3)
    assert found[["speedup", "speedup_low", "speedup_high"]].tolist() == pytest.approx([1.0, 1 / reach, reach])
    ends = 0.1 * 2 ** 0.5 / 2
    assert found[["gain", "gain_low", "gain_high"]].tolist() == pytest.approx([0.15, 0.15 - ends, 0.15 + ends])
    assert found["same"] == pytest.approx((5 + 30 + 10) / 50)


def test_each_run_has_its_own_ranks() -> None:
    rows = [one | {"run": run} for run, speed in (("x", 2.0), ("y", 0.5))
            for one in (BASE, cell("a", speed, speed - 0.1, speed + 0.1))]
    found = board(*rows)
    assert list(zip(found["run"], found["strategy"], found["rank"], strict=True)) == [
        ("x", "a", 1), ("x", "greedy", 2), ("y", "greedy", 1), ("y", "a", 2)]


def test_a_baseline_is_one_in_its_own_run_alone() -> None:
    rows = [BASE | {"run": "x"}, cell("a", 1.0, NAN, NAN) | {"run": "y"}, cell("greedy", 1.2, 1.1, 1.3) | {"run": "y"}]
    manifests = {run: manifest([strategy(base)], [task("math", examples=10)]) for run, base in
                 (("x", "greedy"), ("y", "a"))}
    found = leaderboard(pd.DataFrame(rows), manifests).set_index(["run", "strategy"])
    assert found.loc["y", "speedup_low"].round(9).to_dict() == {"greedy": 1.1, "a": 1.0}


def test_a_judges_score_counts_as_a_tenth() -> None:
    found = board(BASE | {"quality_metric": SCORE}, cell("a", 1, 1, 1, gain=2.0, quality_metric=SCORE))
    assert found.set_index("strategy").loc["a", "gain"] == pytest.approx(0.2)


def test_few_problems_of_a_task_rank_nothing_and_the_reason_is_said() -> None:
    rows = [BASE | {"samples": FEW}, cell("a", 0.5, 0.4, 0.6, samples=FEW), cell("b", 2.0, 1.9, 2.1, samples=FEW)]
    assert rule(board(*rows)) == RULE
    few = [row | {"task": "code", "samples": FEW - 1} for row in rows]
    found = board(*rows, *few)
    assert found["rank"].isna().all()
    assert found["strategy"].tolist() == ["greedy", "a", "b"], "an order by speed would be a ranking"
    assert rule(found) == "Not ranked: a rank needs at least 5 problems of each task, and code has 4."


def test_many_samples_of_few_problems_are_few() -> None:
    found = leaderboard(pd.DataFrame([BASE | {"samples": 80}, cell("a", 2.0, 1.9, 2.1, samples=80)]),
                        {"": manifest([strategy("greedy")], [task("math", examples=FEW - 1)])})
    assert found["rank"].isna().all()


def test_each_run_is_ranked_or_not_by_its_own_problems() -> None:
    rows = [one | {"run": run, "samples": count} for run, count in (("x", FEW - 1), ("y", FEW))
            for one in (BASE, cell("a", 2.0, 1.9, 2.1))]
    found = board(*rows)
    assert found.loc[found["run"] == "x", "rank"].isna().all()
    assert found.loc[found["run"] == "y", "rank"].tolist() == [1, 2]
    assert rule(found) == f"{RULE} Not ranked in x: a rank needs at least 5 problems of each task, and math has 4."
