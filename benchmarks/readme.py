"""Print the tables of the README from the records of the reference run: `python -m benchmarks.readme`."""

from pathlib import Path
from typing import Any

import pandas as pd

from harness.measure.summary import summarise
from harness.store.folder import Store

RUN = Path(__file__).resolve().parents[1] / "results" / "demo"
TASKS = ("math", "code", "chat", "story", "edit", "summary")
TAU = ("math", "story", "edit")


def tables() -> str:
    """Return both tables in Markdown: quality, then speed-ups with their intervals and tau."""
    summary = summarise(Store.open(RUN))
    cells = {(row["name"], row["task"].removeprefix("nano_")): row for _, row in summary.iterrows()}
    names = list(dict.fromkeys(summary["name"]))
    quality = [[f"`{name}`", *(f"{cells[name, task]['quality']:.2f}" for task in TASKS)] for name in names]
    speed = [[f"`{name}`", *(_speed(cells[name, task]) for task in TASKS), *(_tau(cells[name, task]) for task in TAU)]
             for name in names if name != "greedy"]
    return "\n\n".join([_table(["strategy", *TASKS], quality),
                        _table(["strategy", *TASKS, f"tau: {TAU[0]}", *TAU[1:]], speed)])


def _speed(cell: "pd.Series[Any]") -> str:
    return f"{cell['speedup']:.2f} [{cell['speedup_low']:.2f}, {cell['speedup_high']:.2f}]"


def _tau(cell: "pd.Series[Any]") -> str:
    return "–" if pd.isna(cell["tau_pooled"]) or cell["family"] == "search" else f"{cell['tau_pooled']:.2f}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    rule = "|".join(["---", *["---:"] * (len(header) - 1)])
    first, *others = (f"| {' | '.join(row)} |" for row in [header, *rows])
    return "\n".join([first, f"|{rule}|", *others])


if __name__ == "__main__":
    print(tables())
