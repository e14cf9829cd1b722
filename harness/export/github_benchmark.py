"""The summary as JSON for github-action-benchmark, which charts each named value over a project's commits.

Its custom tools support one direction per file: `bigger.json` is for `customBiggerIsBetter`, `smaller.json` for
`customSmallerIsBetter`.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from harness.export import ExportedFiles
from harness.measure.summary import summarise
from harness.plugins.spec import labels
from harness.store.files import replace_file
from harness.store.folder import Store

BIGGER = {"quality": "score", "tokens_per_second": "tokens/s", "speedup": "x", "tau_pooled": "tokens/step"}
SMALLER = {"forwards_per_token": "forwards/token", "draft_forwards_per_token": "forwards/token",
           "positions_per_token": "positions/token", "ttft_median": "s"}


def write(store: Store, folder: Path) -> ExportedFiles:
    """Write `bigger.json` and `smaller.json`, with one entry for each figure of each cell."""
    summary = summarise(store)
    return ExportedFiles([replace_file(folder / f"{name}.json", text(summary, units))
                          for name, units in (("bigger", BIGGER), ("smaller", SMALLER))])


def text(summary: pd.DataFrame, units: dict[str, str] = BIGGER) -> str:
    """Return the content of a file with the figures in `units`."""
    return json.dumps(entries(summary, units), indent=1, ensure_ascii=False) + "\n"


def entries(summary: pd.DataFrame, units: dict[str, str]) -> list[dict[str, Any]]:
    """Return name, unit, value and 95 % interval (`range`) of each known figure in `units`."""
    short, result = labels(summary["strategy"].unique()), []
    for _, row in summary.iterrows():
        for figure, unit in units.items():
            if pd.isna(row[figure]):
                continue
            entry = {"name": f"{row['task']} / {short[row['strategy']]} / {figure}", "unit": unit,
                     "value": float(row[figure]), "extra": f"{row['strategy']}\n{row['samples']} samples"}
            if not pd.isna(row.get(f"{figure}_low")):
                entry["range"] = f"{row[f'{figure}_low']:.4g} to {row[f'{figure}_high']:.4g}"
            result.append(entry)
    return result
