r"""The summary as LaTeX: one table a task with booktabs' rules, the best of each column in bold.

`summary.tex` is to be read by a document with `\input`; it needs `\usepackage{booktabs}`, and UTF-8 as LaTeX has by
default. A figure stands with its 95 % interval, as ± where the two sides look alike.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from harness.export import ExportedFiles
from harness.measure.summary import summarise
from harness.report.tables import QUALITY, SPEEDUP, TAU, Column, names, notes, status, unscored
from harness.store.files import replace_file
from harness.store.folder import Store

COLUMNS = ((QUALITY, "quality"), (SPEEDUP, "speed-up"), (TAU, r"$\tau$"))
SPECIAL = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
           "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "\"": r"\textquotedbl{}", "–": "--",
           "…": r"\dots{}", "τ": r"$\tau$", "×": r"$\times$", "−": "$-$",
           **{sign: f"\\{sign}" for sign in "&%$#_"}}
DASH = "--"


def write(store: Store, folder: Path) -> ExportedFiles:
    """`summary.tex`: a table for each task of the run."""
    return ExportedFiles([replace_file(folder / "summary.tex", tables(summarise(store), store))])


def tables(summary: pd.DataFrame, store: Store) -> str:
    """The tables of a summary, one after the other, and what a reader must know as comments."""
    manifest = store.manifest
    about = [r"\usepackage{booktabs} is needed.", f"{manifest.model.name} ({manifest.model.dtype}); "
             f"speed-up over {manifest.baseline}; 95 % intervals", *notes(summary), *manifest.warnings]
    found = [f"% {' '.join(line.split())}" for line in about]
    for task, rows in summary.assign(label=names(summary)).groupby("task", sort=False):
        found += ["", *_table(str(task), rows, manifest.model.name)]
    return "\n".join(found) + "\n"


def escaped(text: str) -> str:
    """Text as LaTeX prints it; letters that a default document cannot print become question marks."""
    return "".join(SPECIAL.get(letter, letter if letter.isprintable() and ord(letter) < 0x100 else "?")
                   for letter in " ".join(text.split()))


def _table(task: str, rows: pd.DataFrame, model: str) -> list[str]:
    metric = unscored(rows.iloc[0]) if rows["quality_note"].iloc[0] else str(rows["quality_metric"].iloc[0])
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
    """The highest figure as it is written, so that equal ones are all bold; nothing when there is only one."""
    known = rows.dropna(subset=[column.key]).sort_values(column.key)
    return _shown(known.iloc[-1], column)[0] if len(known) > 1 else ""


def _shown(row: "pd.Series[float]", column: Column) -> tuple[str, str]:
    """A figure and the ends of its interval, as the report writes them."""
    value, _, ends = column.text(row).replace(",", "").partition(" [")
    return value, ends.rstrip("]")


def _cell(row: "pd.Series[float]", column: Column, best: str) -> str:
    if pd.isna(row[column.key]):
        return DASH
    value, ends = _shown(row, column)
    shown = rf"\mathbf{{{value}}}" if value == best else value
    if not ends:
        return f"${shown}$"
    digits = len(value.partition(".")[2])
    figure, low, high = (float(row[f"{column.key}{end}"]) for end in ("", "_low", "_high"))
    below, above = (f"{distance:.{digits}f}" for distance in (figure - low, high - figure))
    return rf"${shown} \pm {above}$" if below == above else f"${shown}_{{-{below}}}^{{+{above}}}$"
