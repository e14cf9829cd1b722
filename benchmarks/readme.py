"""Print the tables of the README from the records of the reference runs: `python -m benchmarks.readme`."""

from pathlib import Path
from typing import Any

import pandas as pd

from harness.measure.summary import summarise
from harness.report.tables import row_labels
from harness.store.folder import Store

RESULTS = Path(__file__).resolve().parents[1] / "results"
RUN, REAL = RESULTS / "demo", RESULTS / "qwen-0.5b" / "humaneval"
TASKS = ("math", "code", "chat", "story", "edit", "summary")
TAU = ("math", "story", "edit")


def real_table() -> str:
    """Return the table of the real model in Markdown: for each strategy quality, length and speed."""
    summary = summarise(Store.open(REAL))
    rows = [[f"`{label}`", _interval(row, "quality"), f"{row['tokens_mean']:.0f}", f"{row['truncated']:.0%}",
             _interval(row, "speedup"), f"{row['same_as_baseline']:.0%}"]
            for label, (_, row) in zip(row_labels(summary), summary.iterrows(), strict=True)]
    return _table(["strategy", "pass@1", "tokens", "cut off", "speed-up", "same as greedy"], rows)


def tables() -> str:
    """Return both tables of the embedded model: quality, then speed-ups with their intervals and tau."""
    summary = summarise(Store.open(RUN))
    cells = {(row["name"], row["task"].removeprefix("nano_")): row for _, row in summary.iterrows()}
    names = list(dict.fromkeys(summary["name"]))
    quality = [[f"`{name}`", *(f"{cells[name, task]['quality']:.2f}" for task in TASKS)] for name in names]
    speed = [[f"`{name}`", *(_interval(cells[name, task], "speedup") for task in TASKS),
              *(_tau(cells[name, task]) for task in TAU)] for name in names if name != "greedy"]
    return "\n\n".join([_table(["strategy", *TASKS], quality),
                        _table(["strategy", *TASKS, f"tau: {TAU[0]}", *TAU[1:]], speed)])


def _interval(cell: "pd.Series[Any]", figure: str) -> str:
    low, high = cell[f"{figure}_low"], cell[f"{figure}_high"]
    return f"{cell[figure]:.2f}" if pd.isna(low) else f"{cell[figure]:.2f} [{low:.2f}, {high:.2f}]"


def _tau(cell: "pd.Series[Any]") -> str:
    return "–" if pd.isna(cell["tau_pooled"]) or cell["family"] == "search" else f"{cell['tau_pooled']:.2f}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    rule = "|".join(["---", *["---:"] * (len(header) - 1)])
    first, *others = (f"| {' | '.join(row)} |" for row in [header, *rows])
    return "\n".join([first, f"|{rule}|", *others])


if __name__ == "__main__":
    print("\n\n".join([real_table(), tables()]))
