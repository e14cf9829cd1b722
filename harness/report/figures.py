"""Draws the figures of a report and writes them: those of a large run's tables beside the reading of its samples."""

import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from harness.plugins.task_names import task_names
from harness.report import plots
from harness.report.detail import Contents
from harness.store.files import replace_file

MANY = 50_000  # samples whose reading takes longer than the start of another process
Draw = Callable[[Mapping[str, Any]], None]


@contextmanager
def drawing(contents: Contents, folder: Path) -> Iterator[Draw]:
    """Write the figures of the tables, and yield what writes those of the page's index, once that is known.

    All are on disk when the block ends. Those of a large run are drawn in another process while the block runs.
    """
    tables = replace(contents, keys=[])
    if sum(map(len, contents.keys)) < MANY:
        _of_tables(tables, folder)
        yield lambda index: _of_samples(tables, index, folder)
        return
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        jobs = [pool.submit(_of_tables, tables, folder)]
        yield lambda index: jobs.append(pool.submit(_of_samples, tables, index, folder))
        for job in jobs:
            job.result()


def _of_samples(contents: Contents, index: Mapping[str, Any], folder: Path) -> None:
    for task in contents.summary["task"].unique():
        _write(contents, task, plots.of_samples(contents, task, index), folder)


def _of_tables(contents: Contents, folder: Path) -> None:
    for task in contents.summary["task"].unique():
        _write(contents, task, plots.of_tables(contents, task), folder)


def _write(contents: Contents, task: str, figures: Mapping[str, Figure], folder: Path) -> None:
    name = re.sub(r"[^\w.=+-]+", "-", task_names(contents.summary["task"].unique())[task])
    for kind, figure in figures.items():
        for ending, content in plots.files(figure).items():
            replace_file(folder / "plots" / f"{name}.{kind}.{ending}", content)
