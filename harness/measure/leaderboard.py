"""Ranks the strategies of a run over all of its tasks."""

from collections.abc import Collection

import numpy as np
import pandas as pd

from harness.measure.judged import BEST, SCORE
from harness.measure.significance import SURE
from harness.measure.summary import keys_of, overall
from harness.stats.bootstrap import NOTHING, Interval

RULE = ("Fastest first, proven worse answers last. Strategies share a rank while their intervals overlap that of the "
        "rank's first.")


def leaderboard(summary: pd.DataFrame, baselines: Collection[tuple[str, ...]]) -> pd.DataFrame:
    """Return the rows of `overall` of each run in order of `RULE`, with a `rank` from 1, NaN without a speed-up.

    `gain` is the mean over scored tasks of
    the difference in quality from the baseline. The 95 % intervals `speedup_low` … `speedup_high` and `gain_low` …
    `gain_high` take the tasks as independent. `worse` tells whether answers are proven worse on a task, and `same` is
    the share of answers with the baseline's tokens. `baselines` are the (strategy,) of one run's baseline, or the (run,
    strategy) of several.
    """
    board = overall(summary)
    groups = summary.groupby(keys_of(summary, "strategy"), sort=False)
    board = board.join(pd.DataFrame([_figures(group, key in baselines) for key, group in groups]))
    board.loc[board["quality_mean"].isna(), ["gain", "gain_low", "gain_high"]] = float("nan")
    runs = [rows for _, rows in board.groupby("run", sort=False)] if "run" in board else [board]
    return pd.concat([_ranked(rows) for rows in runs])


def _figures(group: pd.DataFrame, is_base: bool) -> dict[str, float | bool]:
    if is_base:
        group = group.assign(speedup_low=1.0, speedup_high=1.0)
    speed = _combined(group[["speedup", "speedup_low", "speedup_high"]].astype(float).transform(np.log))
    scored = group[group["quality_gain"].notna()]
    scale = np.where(scored["quality_metric"] == SCORE, 1 / BEST, 1.0)
    gain = _combined(scored[["quality_gain", "quality_gain_low", "quality_gain_high"]].mul(scale, axis=0))
    samples = group["samples"]
    return {"speedup_low": float(np.exp(speed.low)), "speedup_high": float(np.exp(speed.high)),
            "gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high,
            "worse": bool(((group["quality_p_holm"] < SURE) & (group["quality_gain"] < 0)).any()),
            "same": float((group["same_as_baseline"] * samples).sum(skipna=False) / samples.sum())}


def _combined(intervals: pd.DataFrame) -> Interval:
    """Return the mean of independent means, each a row (mean, low, high); squared distances to the ends add up."""
    if intervals.empty:
        return NOTHING
    means, *ends = (intervals[name].to_numpy() for name in intervals)
    below, above = (float(np.sqrt(((end - means) ** 2).sum())) / len(means) for end in ends)
    return Interval(float(means.mean()), float(means.mean()) - below, float(means.mean()) + above)


def _ranked(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows in order of `RULE` with their ranks."""
    rows = rows.assign(rank=float("nan")).sort_values(["worse", "speedup"], ascending=[True, False], kind="stable")
    rows = pd.concat([rows[rows["speedup"].notna()], rows[rows["speedup"].isna()]])
    first, rank = None, 0
    for place, (index, row) in enumerate(rows[rows["speedup"].notna()].iterrows(), start=1):
        if first is None or row["worse"] != first["worse"] or row["speedup_high"] < first["speedup_low"]:
            first, rank = row, place
        rows.loc[index, "rank"] = rank
    return rows
