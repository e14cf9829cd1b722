"""Print the tables of docs/heads.md: trained drafters at equal data and training, from a run and its limits.

    python -m benchmarks.heads [RUN [MORE]]

RUN is results/heads by default; `limits RUN` must have measured it. MORE has more problems, for the comparison with
`speculative`: results/heads-50 by default.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.readme import table
from harness.errors import UserError
from harness.measure.acceptance import acceptance_table
from harness.measure.limits import limits_table
from harness.measure.raw import read
from harness.measure.summary import summarise
from harness.report.tables import row_labels
from harness.stats.bootstrap import ratio_interval
from harness.store.folder import Store
from harness.store.schema import Manifest

RUN, MORE = (Path(__file__).resolve().parents[1] / "results" / name for name in ("heads", "heads-50"))
SHOWN = 4  # depths


def heads_table(store: Store) -> str:
    """Return a row for each strategy over all tasks: size, acceptance, cost, ideal and measured speed-up, and loss.

    `right` are the shares of right likeliest tokens on held-out answers by depth, each after right ones, and `accepted`
    the shares of accepted depths in decoding. Figures of several tasks are means; speed-ups are geometric ones.
    """
    raw, summary = read(store), summarise(store)
    walked, limits = acceptance_table(store, raw), limits_table(store, raw)
    rows = []
    for label, spec in _labels(summary, store.manifest).items():
        costs, cells = limits[limits["strategy"] == spec], walked[walked["strategy"] == spec]
        head = next((entry.head for entry in store.manifest.strategies if entry.spec == spec), None)
        rows.append([f"`{label}`", f"{head.parameters / 1e6:.2f}" if head else "–",
                     " ".join(f"{share:.2f}" for share in head.right[:SHOWN]) if head else "–", _walked(cells),
                     f"{costs['tau'].mean():.2f}", *(_number(costs[name].mean()) for name in ("draft_cost", "v")),
                     *(_number(_geometric(costs[name])) for name in ("ideal", "measured")),
                     "–" if costs["loss"].isna().any() else f"{costs['loss'].mean():.0%}"])
    return table(["strategy", "M weights", "right by depth", "accepted by depth", "tau", "c", "v", "ideal", "measured",
                  "loss"], rows)


def speeds_table(store: Store) -> str:
    """Return a row for each strategy with tau and the speed-up, and its interval, on each task."""
    summary = summarise(store)
    tasks = list(dict.fromkeys(summary["task"]))
    cells = {(row["strategy"], row["task"]): row for _, row in summary.iterrows()}
    rows = [[f"`{label}`", *(_speed(cells[spec, task]) for task in tasks)]
            for label, spec in _labels(summary, store.manifest).items()]
    return table(["strategy", *(task.removeprefix("nano_") for task in tasks)], rows)


def faster_table(store: Store) -> str:
    """Return a row for each strategy proven faster than `speculative` on a task, with the ratio of times there.

    It is the geometric mean over problems, with a 95 % interval.
    """
    samples = read(store).samples
    times = samples.pivot_table("seconds", ["task", "example"], "strategy")
    drafting = next(entry.spec for entry in store.manifest.strategies if entry.name == "speculative")
    summary, rows = summarise(store), []
    for label, spec in _labels(summary, store.manifest).items():
        for task, group in times.groupby("task"):
            logs = np.log(group[drafting] / group[spec])
            found = ratio_interval(logs, np.arange(len(logs)))
            if found.low > 1:
                rows.append([f"`{label}`", str(task).removeprefix("nano_"),
                             f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"])
    return table(["strategy", "task", "times as fast as `speculative`"], rows)


def _labels(summary: pd.DataFrame, manifest: Manifest) -> dict[str, str]:
    """Return the strategies other than the baseline by their short names."""
    each = summary.drop_duplicates("strategy")
    found = dict(zip(row_labels(each), each["strategy"], strict=True))
    return {label: spec for label, spec in found.items() if spec != manifest.baseline}


def _walked(cells: pd.DataFrame) -> str:
    names = [f"accept_pos_cond_{place}" for place in range(1, 1 + SHOWN)]
    shares = [cells[name].mean() for name in names if name in cells]
    return " ".join(f"{share:.2f}" for share in shares if not np.isnan(share)) or "–"


def _geometric(values: "pd.Series[Any]") -> float:
    return float(np.exp(np.log(values).mean(skipna=False)))


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}"


def _speed(cell: "pd.Series[Any]") -> str:
    low, high = cell["speedup_low"], cell["speedup_high"]
    return f"{cell['tau_pooled']:.2f}: {cell['speedup']:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    given = [Path(place) for place in sys.argv[1:3]]
    try:
        run, more = (Store.open(place) for place in [*given, *(RUN, MORE)[len(given):]])
        if run.limits() is None:
            raise UserError(f"The limits of {run.folder} were not measured: run 'decodebench limits {run.folder}'.")
    except UserError as error:
        sys.exit(str(error))
    print(heads_table(run), speeds_table(run), faster_table(more), sep="\n\n")
