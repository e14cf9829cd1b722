"""Print the tables of README and docs/real-models.md from the records of the reference runs.

    python -m benchmarks.readme
"""

from pathlib import Path
from typing import Any

import pandas as pd

from harness.measure import texts
from harness.measure.parts import part_table
from harness.measure.raw import read
from harness.measure.summary import summarise
from harness.report.tables import row_labels
from harness.store.folder import Store

RESULTS = Path(__file__).resolve().parents[1] / "results"
RUN = RESULTS / "demo"
TASKS = ("math", "code", "chat", "story", "edit", "summary")
TAU = ("math", "story", "edit")


def quality_table(run: str) -> str:
    """Return a real run's table in Markdown: for each strategy quality, length of the answers and speed."""
    summary = summarise(Store.open(RESULTS / run))
    rows = [[f"`{label}`", interval(row, "quality"), f"{row['tokens_mean']:.0f}", f"{row['truncated']:.0%}",
             interval(row, "speedup"), f"{row['same_as_baseline']:.0%}"]
            for label, (_, row) in zip(row_labels(summary), summary.iterrows(), strict=True)]
    return table(["strategy", "correct", "tokens", "cut off", "speed-up", "same as greedy"], rows)


def speed_table(run: str) -> str:
    """Return a real run's table in Markdown: for each strategy speed, tau, accepted drafts and forwards per token."""
    summary = summarise(Store.open(RESULTS / run))
    scored = summary["quality"].notna().any()
    rows = [[f"`{label}`", *([f"{row['quality']:.2f}"] if scored else []), interval(row, "speedup"), _tau(row),
             share(row["accept_rate"]), f"{row['forwards_per_token']:.2f}", f"{row['same_as_baseline']:.0%}"]
            for label, (_, row) in zip(row_labels(summary), summary.iterrows(), strict=True)]
    return table(["strategy", *(["correct"] if scored else []), "speed-up", "tau", "accepted", "forwards per token",
                   "same as greedy"], rows)


def sub_task_table(run: str) -> str:
    """Return a real run's table in Markdown: for each strategy speed-up and tau of each sub-task, and of all."""
    store = Store.open(RESULTS / run)
    parts = part_table(store, read(store))
    names = list(dict.fromkeys(parts["part"]))
    rows = [[f"`{label}`", *(f"{row['speedup']:.2f} ({_tau(row)})" for _, row in rows.iterrows())]
            for label, (_, rows) in zip(row_labels(parts.drop_duplicates("strategy")),
                                        parts.groupby("strategy", sort=False), strict=True)]
    return table(["strategy", *(name.replace("_", " ") for name in names)], rows)


def text_table(run: str) -> str:
    """Return a real run's table in Markdown: for each strategy the length, repetition and variety of its texts."""
    store = Store.open(RESULTS / run)
    summary = summarise(store).set_index("strategy")
    found = texts.text_table(store, texts.answers_of(store))
    found = found[found["strategy"] != texts.REFERENCE]
    rows = [[f"`{label}`", f"{row['tokens']:.0f}", f"{row['truncated']:.0%}", share(row["loops"]),
             f"{row['rep_4']:.3f}", f"{row['distinct_2']:.2f}", f"{row['surprise']:.2f}",
             interval(summary.loc[row["strategy"]], "speedup")]
            for label, (_, row) in zip(row_labels(found), found.iterrows(), strict=True)]
    return table(["strategy", "tokens", "cut off", "loops", "rep-4", "distinct-2", "bits a token", "speed-up"], rows)


def tables() -> str:
    """Return both tables of the embedded model: quality, then speed-ups with their intervals and tau."""
    summary = summarise(Store.open(RUN))
    cells = {(row["name"], row["task"].removeprefix("nano_")): row for _, row in summary.iterrows()}
    names = list(dict.fromkeys(summary["name"]))
    quality = [[f"`{name}`", *(f"{cells[name, task]['quality']:.2f}" for task in TASKS)] for name in names]
    speed = [[f"`{name}`", *(interval(cells[name, task], "speedup") for task in TASKS),
              *(_tau(cells[name, task]) for task in TAU)] for name in names if name != "greedy"]
    return "\n\n".join([table(["strategy", *TASKS], quality),
                        table(["strategy", *TASKS, f"tau: {TAU[0]}", *TAU[1:]], speed)])


def interval(cell: "pd.Series[Any]", figure: str) -> str:
    """Return a figure of a cell with its interval if it has one; a dash if it is unknown."""
    if pd.isna(cell[figure]):
        return "–"
    low, high = cell[f"{figure}_low"], cell[f"{figure}_high"]
    return f"{cell[figure]:.2f}" if pd.isna(low) else f"{cell[figure]:.2f} [{low:.2f}, {high:.2f}]"


def share(value: float | None) -> str:
    """Return a share in percent; a dash if it is unknown."""
    return "–" if value is None or pd.isna(value) else f"{value:.0%}"


def _tau(cell: "pd.Series[Any]") -> str:
    return "–" if pd.isna(cell["tau_pooled"]) or cell["family"] == "search" else f"{cell['tau_pooled']:.2f}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown whose columns but the first are numbers."""
    rule = "|".join(["---", *["---:"] * (len(header) - 1)])
    first, *others = (f"| {' | '.join(row)} |" for row in [header, *rows])
    return "\n".join([first, f"|{rule}|", *others])


def real_tables() -> dict[str, str]:
    """Return the table of each run of a real model."""
    return {run: table(run) for run, table in REAL.items()}


REAL = {"qwen-1.5b/humaneval": speed_table, "qwen-0.5b/humaneval": quality_table, "qwen-0.5b/gsm8k": quality_table,
        "qwen-1.5b/spec_bench": sub_task_table, "smollm2/mt_bench": text_table, "smollm2/humaneval": quality_table,
        "smollm2/gsm8k_chat": quality_table, "smollm2/spec_bench": sub_task_table}

if __name__ == "__main__":
    print("\n\n".join([*real_tables().values(), tables()]))
