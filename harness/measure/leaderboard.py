"""Ranks the strategies of a run over all of its tasks."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from harness.measure.judged import BEST, SCORE
from harness.measure.significance import FEW, SURE
from harness.measure.summary import keys_of, overall, problems
from harness.plugins.task_names import task_names
from harness.stats.bootstrap import NOTHING, Interval
from harness.store.schema import Manifest

RULE = ("Fastest first, proven worse answers last. Strategies share a rank while their intervals overlap that of the "
        "rank's first.")


def leaderboard(summary: pd.DataFrame, manifests: Mapping[str, Manifest]) -> pd.DataFrame:
    """Return the rows of `overall` of each run in order of `RULE`, with a `rank` from 1, NaN without a speed-up.

    A run with fewer than `FEW` problems of a task keeps its own order without ranks, and `unranked` says so. `gain` is
    the mean over scored tasks of the difference in quality from the baseline. The 95 % intervals `speedup_low` …
    `speedup_high` and `gain_low` … `gain_high` take the tasks as independent. `worse` tells whether answers are proven
    worse on a task, and `same` is the share of answers with the baseline's tokens. `manifests` are those of
    `manifests_of`.
    """
    board = overall(summary)
    groups = summary.groupby(keys_of(summary, "strategy"), sort=False)
    bases = {(*([run] if run else []), manifest.baseline) for run, manifest in manifests.items()}
    board = board.join(pd.DataFrame([_figures(group, key in bases) for key, group in groups]))
    board.loc[board["quality_mean"].isna(), ["gain", "gain_low", "gain_high"]] = float("nan")
    runs = dict(iter(board.groupby("run", sort=False))) if "run" in board else {"": board}
    return pd.concat([_ranked(rows, _unranked(summary, str(run), manifests[str(run)])) for run, rows in runs.items()])


def rule(board: pd.DataFrame) -> str:
    """Return how the strategies of a leaderboard are ordered, or why those of some runs are not."""
    reasons = [reason for reason in board["unranked"].unique() if reason]
    return " ".join([*([RULE] if (board["unranked"] == "").any() else []), *reasons])


def _unranked(summary: pd.DataFrame, run: str, manifest: Manifest) -> str:
    """Return the sentence on too few problems of a task, empty if there are enough."""
    counts = problems(summary[summary["run"] == run] if run else summary, manifest)
    fewest = min(counts, key=lambda task: counts[task])
    return f"Not ranked{f' in {run}' if run else ''}: a rank needs at least {FEW} problems of each task, and " \
        f"{task_names(counts)[fewest]} has {counts[fewest]}." if counts[fewest] < FEW else ""


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


def _ranked(rows: pd.DataFrame, unranked: str) -> pd.DataFrame:
    """Return the rows in order of `RULE` with their ranks; unchanged and without ranks if they are `unranked`."""
    rows = rows.assign(rank=float("nan"), unranked=unranked)
    if unranked:
        return rows
    rows = rows.sort_values(["worse", "speedup"], ascending=[True, False], kind="stable")
    rows = pd.concat([rows[rows["speedup"].notna()], rows[rows["speedup"].isna()]])
    first, rank = None, 0
    for place, (index, row) in enumerate(rows[rows["speedup"].notna()].iterrows(), start=1):
        if first is None or row["worse"] != first["worse"] or row["speedup_high"] < first["speedup_low"]:
            first, rank = row, place
        rows.loc[index, "rank"] = rank
    return rows
