"""Draws the figures of a report and writes them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from harness.plugins.task_names import task_names
from harness.report import plots
from harness.report.detail import Contents
from harness.store.files import replace_file


def draw_tables(contents: Contents, folder: Path) -> None:
    """Write the figures of the tables of each task."""
    for task in contents.summary["task"].unique():
        _write(contents, task, plots.of_tables(contents, task), folder)


def draw_samples(contents: Contents, index: Mapping[str, Any], folder: Path) -> None:
    """Write the figures of the page's index of samples, of each task."""
    for task in contents.summary["task"].unique():
        _write(contents, task, plots.of_samples(contents, task, index), folder)


def _write(contents: Contents, task: str, figures: Mapping[str, Figure], folder: Path) -> None:
    name = re.sub(r"[^\w.=+-]+", "-", task_names(contents.summary["task"].unique())[task])
    for kind, figure in figures.items():
        for ending, content in plots.files(figure).items():
            replace_file(folder / "plots" / f"{name}.{kind}.{ending}", content)
