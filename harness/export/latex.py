r"""The summary as LaTeX: one booktabs table per task, with the best figure of each column in bold.

Include `summary.tex` with `\input`; it needs `\usepackage{booktabs}` and UTF-8, LaTeX's default. Figures have 95 %
intervals, written with ± if both sides round to the same number.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from harness.export import ExportedFiles
from harness.measure.summary import summarise
from harness.report.tables import (
    QUALITY,
    SPEEDUP,
    TAU,
    Column,
    notes,
    quality_reason,
    row_labels,
    status,
    with_task_names,
)
from harness.store.files import replace_file
from harness.store.folder import Store

COLUMNS = ((QUALITY, "quality"), (SPEEDUP, "speed-up"), (TAU, r"$\tau$"))
SPECIAL = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
           "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "\"": r"\textquotedbl{}", "–": "--",
           "…": r"\dots{}", "τ": r"$\tau$", "×": r"$\times$", "−": "$-$",
           **{sign: f"\\{sign}" for sign in "&%$#_"}}
DASH = "--"


def write(store: Store, folder: Path) -> ExportedFiles:
    """Write `summary.tex`, with a table for each task of the run."""
    return ExportedFiles([replace_file(folder / "summary.tex", tables(summarise(store), store))])


def tables(summary: pd.DataFrame, store: Store) -> str:
    """Return the tables of a summary, preceded by notes as comments."""
    manifest = store.manifest
    comments = [r"\usepackage{booktabs} is needed.", f"{manifest.model.name} ({manifest.model.dtype}); "
                f"speed-up over {manifest.baseline}; 95 % intervals", *notes(summary), *manifest.warnings]
    lines = [f"% {' '.join(line.split())}" for line in comments]
    for task, rows in with_task_names(summary).assign(label=row_labels(summary)).groupby("task", sort=False):
        lines += ["", *_table(str(task), rows, manifest.model.name)]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Escape text for LaTeX; characters that a default document cannot print become question marks."""
    return "".join(SPECIAL.get(letter, letter if letter.isprintable() and ord(letter) < 0x100 else "?")
                   for letter in " ".join(text.split()))


def _table(task: str, rows: pd.DataFrame, model: str) -> list[str]:
    metric = quality_reason(rows.iloc[0]) if rows["quality_note"].iloc[0] else str(rows["quality_metric"].iloc[0])
    caption = (f"{escaped(model)} on {escaped(task)} (quality: {escaped(metric)}). "
               r"Speed-up is relative to the baseline on the same problem; $\tau$ is tokens per step. "
               r"95\,\% intervals.")
    best = {column.key: _best(rows, column) for column, _ in COLUMNS}
    body = []
    for _, row in rows.iterrows():
        cells = [_cell(row, column, best[column.key]) for column, _ in COLUMNS]
        if problem := status(row) if not row["samples"] else "":
            cells[0] = rf"\multicolumn{{1}}{{l}}{{\textit{{{escaped(problem)}}}}}"
        body.append(_line([escaped(row["label"]), *cells]))
    return [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", r"\begin{tabular}{lrrr}", r"\toprule",
            _line(["strategy", *(title for _, title in COLUMNS)]), r"\midrule", *body, r"\bottomrule",
            r"\end{tabular}", r"\end{table}"]


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _best(rows: pd.DataFrame, column: Column) -> str:
    """Return the highest figure as displayed, so that ties are all bold; empty if there is only one row."""
    known = rows.dropna(subset=[column.key]).sort_values(column.key)
    return _formatted(known.iloc[-1], column)[0] if len(known) > 1 else ""


def _formatted(row: "pd.Series[float]", column: Column) -> tuple[str, str]:
    """Return a figure and its interval, formatted as in the report."""
    value, _, ends = column.text(row).replace(",", "").partition(" [")
    return value, ends.rstrip("]")


def _cell(row: "pd.Series[float]", column: Column, best: str) -> str:
    if pd.isna(row[column.key]):
        return DASH
    value, ends = _formatted(row, column)
    figure = rf"\mathbf{{{value}}}" if value == best else value
    if not ends or ">" in ends:  # so wide an interval says nothing
        return f"${figure}$"
    digits = len(value.partition(".")[2])
    mean, low, high = (float(row[f"{column.key}{end}"]) for end in ("", "_low", "_high"))
    below, above = (f"{distance:.{digits}f}" for distance in (mean - low, high - mean))
    return rf"${figure} \pm {above}$" if below == above else f"${figure}_{{-{below}}}^{{+{above}}}$"
