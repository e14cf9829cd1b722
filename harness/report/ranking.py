"""The leaderboard of a run, for the terminal and as GitHub Markdown."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.text import Text

from harness.measure.leaderboard import leaderboard, rule
from harness.measure.summary import run_labels
from harness.plugins.task_names import short_task_names
from harness.report.names import of_strategy
from harness.report.tables import (
    DASH,
    LEADERBOARD,
    QUALITY,
    SPEEDUP,
    escaped,
    markdown_row,
    quality_reason,
    row_labels,
    status,
)
from harness.report.terminal import FittedTable, Head
from harness.store.folder import Store

FIGURES = ("samples", "failed", "quality_mean", "gain", "gain_low", "gain_high", "worse", "speedup", "speedup_low",
           "speedup_high", "same")


def worth_showing(ranked: pd.DataFrame) -> bool:
    """Return whether a leaderboard compares anything."""
    return bool(ranked["speedup"].notna().sum() > 1)


def terminal(summary: pd.DataFrame, ranked: pd.DataFrame, run: str = "") -> FittedTable:
    """Return the leaderboard of a run; where there is room, the quality and speed-up of each task follow."""
    tasks = short_task_names(summary["task"].unique())
    rank, gain, speed, same = (column.title for column in LEADERBOARD)
    heads = [Head(rank, 0, "right"), Head("strategy"), Head(gain, 2), Head(speed, 1), Head(same, 3, "right"),
             *(Head(f"{name}\nquality · ×", place, "right", extra=True) for place, name in
               enumerate(tasks.values(), start=len(LEADERBOARD)))]
    table = FittedTable(heads, title=Text(f"Leaderboard{f' of {run}' if run else ''}", style="table.title"),
                        caption=[f"Means over {len(tasks)} tasks. {rule(ranked)}"])
    cells = {(row["task"], row["strategy"]): row for _, row in summary.iterrows()}
    for label, (_, row) in zip(row_labels(ranked), ranked.iterrows(), strict=True):
        figures = _figures(row)
        table.add(figures[0], of_strategy(label, family=row["family"]), *figures[1:],
                  *(_of_task(cells[task, row["strategy"]]) for task in tasks),
                  style=None if row["samples"] else "dim")
    return table


def rows(ranked: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the leaderboard for JSON: a strategy per row, None for what is unknown."""
    known = ranked[["rank", "strategy", *FIGURES]].to_dict("records")
    return [{str(key): None if isinstance(value, float) and math.isnan(value) else int(value) if key == "rank" else
             value for key, value in row.items()} for row in known]


def markdown(stores: Sequence[Store], summaries: Sequence[pd.DataFrame]) -> str:
    """Return the leaderboard of each run that compares strategies."""
    lines = list[str]()
    for label, store, summary in zip(run_labels(stores), stores, summaries, strict=True):
        ranked = leaderboard(summary, {"": store.manifest})
        if not worth_showing(ranked):
            continue
        lines += [f"### Leaderboard{f' of {label}' if len(stores) > 1 else ''}", "",
                  markdown_row(["rank", "strategy", *(column.title for column in LEADERBOARD[1:])]),
                  markdown_row(["---:", "---", *("---:" for _ in LEADERBOARD[1:])])]
        for name, (_, row) in zip(row_labels(ranked), ranked.iterrows(), strict=True):
            rank, *others = _figures(row)
            lines.append(markdown_row([str(rank), f"`{name}`", *map(str, others)]))
        lines += ["", f"- {escaped(rule(ranked))}", ""]
    return "\n".join([*lines, ""]) if lines else ""


def _figures(row: "pd.Series[Any]") -> list[Text]:
    """Return the cells of `LEADERBOARD`, red for answers that are proven worse."""
    if not row["samples"]:
        return [Text(DASH), Text("not supported" if row["unsupported"] else "not run"), Text(DASH), Text(DASH)]
    cells = [Text(column.text(row, 2)) for column in LEADERBOARD]
    if row["worse"]:
        cells[1].stylize("red")
    return cells


def _of_task(row: "pd.Series[Any]") -> str:
    """Return the quality and the speed-up of one cell, without their intervals."""
    if not row["samples"]:
        return status(row)
    quality = quality_reason(row) if row["quality_note"] else QUALITY.text(row, 2).partition(" [")[0]
    return f"{quality} · {SPEEDUP.text(row, 2).partition(' [')[0]}"
