"""Print the table of docs/long-context.md: what bounded caches and adaptive compute spare, and what they cost.

    python -m benchmarks.memory [RUN]

RUN is a folder with summary.csv, such as the report of a run, and results/memory by default. A row for each strategy:
its score on each task, then means over all tasks of the layers run, keys read, multiply-adds and megabytes of keys and
values a token, and of speed against the baseline. Sequences are decoded in batches.
"""

import sys
from pathlib import Path

import pandas as pd

from benchmarks.readme import table
from harness.report.tables import row_labels

RUN = Path(__file__).resolve().parents[1] / "results" / "memory"


def memory_table(summary: pd.DataFrame) -> str:
    """Return the table in Markdown."""
    tasks, rows = list(summary["task"].unique()), []
    labels = dict(zip(summary["strategy"], row_labels(summary), strict=True))
    for spec, cells in summary.groupby("strategy", sort=False):
        by_task = cells.set_index("task")
        means = cells[["layers_run", "kv_read", "flops_per_token", "kv_bytes_per_token", "speedup"]].mean()
        rows.append([f"`{labels[spec]}`", *(f"{by_task.loc[task, 'quality']:.2f}" for task in tasks),
                     f"{means['layers_run']:.0%}", f"{means['kv_read']:.0%}", f"{means['flops_per_token'] / 1e6:.1f}",
                     f"{means['kv_bytes_per_token'] / 1e6:.2f}", f"{means['speedup']:.2f}"])
    names = [task.removeprefix("nano_").partition(":")[0] for task in tasks]
    return table(["strategy", *names, "layers", "keys", "MFLOP", "KV MB", "speed"], rows)


if __name__ == "__main__":
    place = (Path(sys.argv[1]) if len(sys.argv) > 1 else RUN) / "summary.csv"
    if not place.is_file():
        sys.exit(f"There is no {place}: give the report of a run.")
    print(memory_table(pd.read_csv(place)))
