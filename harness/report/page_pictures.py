"""The figures that the page draws: a strategy's point, its line over batch sizes, and its bar of loops."""

import math
from typing import Any

import pandas as pd

from harness.measure.texts import REFERENCE
from harness.plugins.task_names import task_names
from harness.report import pictured, tables
from harness.report.detail import Contents
from harness.report.families import look
from harness.report.pictured import Bar, Line

Drawn = dict[str, list[dict[str, Any]]]  # by the name of the task


def pictures_of(contents: Contents, board: pd.DataFrame) -> dict[str, Drawn]:
    """Return `points` of each task and of all tasks under an empty name, `batches` and `loops` of each task."""
    summary = contents.summary
    names, rows = task_names(summary["task"].unique()), summary.assign(label=tables.row_labels(summary))
    overall = board.assign(quality=board["quality_mean"], quality_low=float("nan"), quality_high=float("nan"))
    parts = {"": overall} | {name: rows[rows["task"] == task] for task, name in names.items()}
    return {
        "points": {name: [_point(row) for _, row in part.iterrows()] for name, part in parts.items()},
        "batches": {name: [_line(line, rows) for line in pictured.lines(contents, task)]
                    for task, name in names.items()},
        "loops": {name: [_bar(bar) for bar in pictured.bars(contents, task)] for task, name in names.items()},
    }


def _point(row: "pd.Series[Any]") -> dict[str, Any]:
    """Return value and interval of speed-up and quality."""
    def ends(key: str) -> list[float | None]:
        return [_known(float(row[name])) for name in (key, f"{key}_low", f"{key}_high")]

    return {"label": row["label"], "colour": look(row["family"]).colour, "family": row["family"],
            "speed": ends("speedup"), "quality": ends("quality")}


def _line(line: Line, rows: pd.DataFrame) -> dict[str, Any]:
    """Return the speed-ups by batch size, and the labels of the runs that they are from."""
    return {"label": line.label, "colour": look(line.family).colour, "crossing": _known(line.crossing),
            "points": [[size, *map(_known, found)] for size, *found in line.points],
            "rows": sorted(set(rows.loc[rows["strategy"] == line.strategy, "label"]))}


def _bar(bar: Bar) -> dict[str, Any]:
    known = bar.family != REFERENCE
    return {"label": bar.label, "colour": look(bar.family).colour if known else "var(--soft)",
            "loops": bar.loops, "rep": _known(bar.rep_4)} | ({} if known else {"rows": []})


def _known(value: float) -> float | None:
    """Return a number for a script, None if it is unknown."""
    return float(f"{value:.4g}") if math.isfinite(value) else None
