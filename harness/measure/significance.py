"""Significance of the differences in a summary: p-values, smallest detectable effects, and steadiness of the times."""

from typing import Any

import numpy as np
import pandas as pd

from harness.stats.bootstrap import NOTHING, Interval
from harness.stats.confidence_sequence import anytime_difference, means_in_order
from harness.stats.multiple import holm
from harness.stats.noise import Noise, drift, noise, outliers
from harness.stats.paired import difference_interval, mean_test, paired_test
from harness.stats.power import smallest_effect

NAN = float("nan")
SURE = 0.05  # corrected p-values below this are proof
FEW = 5      # problems of a task below which nothing is said about it
TESTS = ("quality", "speedup")
GAIN = ("quality_gain", "quality_gain_low", "quality_gain_high")


def against_baseline(pairs: pd.DataFrame, is_base: bool, precision: float | None = None) -> dict[str, float]:
    """Return p-values of quality and speed against the baseline on the same examples, and smallest detectable effects.

    `pairs` has `example`, `score` and `log_speed`, the latter two also with the suffix `_base`. `quality_gain` is the
    mean difference in quality, with its 95 % interval. `quality_findable` is in units of the score, `speedup_findable`
    a share: 0.05 is 5 % faster. For `precision` see `gain`.
    """
    if is_base:
        nothing = {f"{name}_{figure}": NAN for name in TESTS for figure in ("p", "findable")}
        return nothing | dict.fromkeys(GAIN, 0.0 if pairs["score"].notna().any() else NAN)
    logs = (pairs["log_speed"] - pairs["log_speed_base"]).dropna()
    scores = (pairs["score"] - pairs["score_base"]).dropna()
    speed, quality = pairs.loc[logs.index, "example"], pairs.loc[scores.index, "example"]
    interval, p_value = gain(scores, quality, precision) if len(scores) else (NOTHING, NAN)
    return {**dict(zip(GAIN, interval, strict=True)),
            "quality_p": p_value, "quality_findable": smallest_effect(scores, quality),
            "speedup_p": mean_test(logs, speed),
            "speedup_findable": float(np.expm1(smallest_effect(logs, speed)))}


def gain(differences: "pd.Series[float]", examples: "pd.Series[str]", precision: float | None
         ) -> tuple[Interval, float]:
    """Return the mean difference of scores with its 95 % interval, and the p-value that it is zero.

    If a `precision` decided when the run stopped, both hold at any stop, provided that no difference exceeds 1.
    """
    if precision and (differences.abs() <= 1).all():
        return anytime_difference(means_in_order(differences, examples), precision)
    return difference_interval(differences, examples), paired_test(differences, examples)


def corrected(summary: pd.DataFrame) -> pd.DataFrame:
    """Add `quality_p_holm` and `speedup_p_holm`, Holm's correction over the strategies of each task."""
    for name in TESTS:
        by_task = summary.groupby("task", sort=False)[f"{name}_p"]
        summary[f"{name}_p_holm"] = by_task.transform(lambda column: holm(column.tolist()))
    return summary


def steadiness(of_task: pd.DataFrame, baseline: str) -> dict[str, dict[str, float]]:
    """Return for each strategy of one task how steady its times were.

    A time is the mean of all decode steps of a strategy in one block (of its forward passes, if there are no decode
    steps). `far_times` of the `times` are outliers for that strategy. The rest is computed over the whole task: `drift`
    (1.1: times grew by 10 % from first to last, within categories), its p-value `drift_p`, and `noise_floor`, the
    speed-up of the baseline over itself that its repeats can show by chance.
    """
    ok = of_task[of_task["status"] == "ok"]
    later = ok["decode_steps"] > 0
    blocks = ok.assign(elapsed=_elapsed(ok), spent=ok["decode_seconds"].where(later, ok["seconds"]),
                       work=ok["decode_steps"].where(later, ok["forwards"]))
    times = blocks.groupby(["strategy", "block"], sort=False, as_index=False).agg(
        {"spent": "sum", "work": "sum", "elapsed": "mean", "category": "first"})
    times = times[(times["spent"] > 0) & (times["work"] > 0)]
    times["log"] = np.log(times["spent"].astype(float) / times["work"].astype(float))
    trend = drift(times["log"] - times.groupby("strategy")["log"].transform("median"), times["elapsed"], times["block"],
                  times["category"])
    task = {"drift": float(np.exp(trend.change)) if trend else NAN, "drift_p": trend.p_value if trend else NAN,
            "noise_floor": noise_floor(ok[ok["strategy"] == baseline])}
    cells = {str(strategy): logs for strategy, logs in times.groupby("strategy")["log"]}
    return {strategy: {"far_times": len(outliers(logs)), "times": len(logs), **task}
            for strategy, logs in cells.items()}


def unknown() -> dict[str, Any]:
    """Return `steadiness` of a strategy without records."""
    return {"far_times": 0, "times": 0, "drift": NAN, "drift_p": NAN, "noise_floor": NAN}


def _elapsed(ok: pd.DataFrame) -> "pd.Series[float]":
    """Return running time in seconds over all processes of a resumed run; each process starts its clock at zero."""
    before = ok["started"].shift(fill_value=0.0)
    return ok["started"] + before.where(ok["started"] < before, 0.0).cumsum()


def noise_floor(base: pd.DataFrame) -> float:
    """Return the speed-up of the baseline over itself that its repeats can show by chance; NaN without repeats.

    A repeat that is slower throughout has no effect, because speed-ups compare samples of the same repeat. `base` has
    the `samples` of the baseline on one task.
    """
    measured = repeats(base, "log_speed")
    return float(np.exp(measured.floor)) if measured else NAN


def repeats(cell: pd.DataFrame, column: str) -> Noise | None:
    """Compare later repeats of one cell with its first in a column of logarithms; None without repeats."""
    keys = ["example", "sample"]
    first, later = cell[cell["repeat"] == 0], cell[cell["repeat"] > 0]
    pairs = later[[*keys, column]].merge(first[[*keys, column]], on=keys, suffixes=("", "_base"))
    ratios = (pairs[column] - pairs[f"{column}_base"]).dropna()
    return noise(ratios, pairs.loc[ratios.index, "example"])
