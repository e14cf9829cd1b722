"""The report of one or several runs as files: CSV, Markdown, figures and one HTML page."""

import re
from collections.abc import Sequence
from pathlib import Path

from harness.report import page, plots, tables, texts
from harness.report.detail import Findings, gather
from harness.store.files import replace_file
from harness.store.folder import Store


def write(stores: Sequence[Store], folder: Path, found: Findings | None = None) -> Path:
    """Write summary.csv, summary.md, plots/*.png and *.svg and index.html; returns the path of index.html.

    Every other table has a CSV; `found` spares computing `gather(stores)` again. Each file is replaced in one move; a
    row says which `run` it is of when there are several.
    """
    found = found or gather(stores)
    summary, figures = found.summary, {}
    for section in found.sections:
        replace_file(folder / f"{section.kind.name}.csv", texts.csv(section))
    replace_file(folder / "summary.csv", tables.csv(summary))
    replace_file(folder / "summary.md", tables.markdown(summary) + texts.markdown(found.sections))
    for task in summary["task"].unique():
        figures[task], name = plots.of_task(summary, task), re.sub(r"[^\w.=+-]+", "-", task)
        for kind, figure in figures[task].items():
            replace_file(folder / "plots" / f"{name}.{kind}.png", plots.png(figure))
            replace_file(folder / "plots" / f"{name}.{kind}.svg", plots.svg(figure))
    return replace_file(folder / "index.html", page.render(stores, found, figures))
