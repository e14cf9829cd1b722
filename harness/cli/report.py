"""`decodebench report`: write tables, plots and an HTML page from runs on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

if TYPE_CHECKING:
    from harness.report.detail import Contents
    from harness.report.terminal import FittedTable
    from harness.store.folder import Store


def command(
    runs: Annotated[list[Path], Argument(metavar="DIR", help="folders that `run` wrote", show_default=False)],
    output: Annotated[Path | None, Option("-o", "--output", metavar="DIR",
                                          help="output folder [DIR/report, ./report for several runs]")] = None,
    details: Annotated[bool, Option("--details", help="also print acceptance and speed in detail")] = False,
) -> None:
    """Write tables, plots and index.html, and print the tables."""
    render(runs, output or (runs[0] / "report" if len(runs) == 1 else Path("report")), details)


def written(runs: Sequence[Path], folder: Path) -> "tuple[list[Store], Contents, Path]":
    """Write the report of `runs` to `folder`; returns the runs, the contents of the report, and the path of the page.
    """
    from harness import report
    from harness.store.folder import Store

    stores = [Store.open(run) for run in runs]
    return stores, *report.write(stores, folder)


def render(runs: Sequence[Path], folder: Path, details: bool = False) -> Path:
    """Write the report of `runs` to `folder`, print its tables and the verdict, and print and return the page's path.
    """
    stores, contents, page = written(runs, folder)
    show(tables_of(stores, contents, details), contents.verdict, page)
    return page


def tables_of(stores: "Sequence[Store]", contents: "Contents", details: bool = False) -> "list[FittedTable]":
    """Return the tables of a report for a terminal, leaderboards last; with one task, its table is the leaderboard."""
    from harness.measure.leaderboard import leaderboard
    from harness.measure.summary import run_labels
    from harness.report import detail, ranking, tables, texts

    first: list[FittedTable] = []
    boards: list[FittedTable] = []
    for label, store, summary in zip(run_labels(stores), stores, contents.summaries, strict=True):
        run = label if len(stores) > 1 else ""
        ranked, several = leaderboard(summary, {"": store.manifest}), summary["task"].nunique() > 1
        telling = ranking.worth_showing(ranked)
        first.append(tables.terminal(summary, store.manifest, None if several or not telling else ranked, run))
        if several and telling:
            boards.append(ranking.terminal(summary, ranked, run))
    below = [texts.terminal(section) for section in contents.sections
             if details or section.kind not in detail.ON_REQUEST]
    return [*first, *below, *boards]


def show(tables: "Sequence[FittedTable]", verdict: Sequence[str], page: Path) -> None:
    """Print tables, then the verdict and the path of the page."""
    from rich.console import Console

    console = Console()
    for table in tables:
        console.print(table)
    if verdict:
        console.print("Verdict", style="bold")
        for line in verdict:
            console.print(line, markup=False, highlight=False)
    console.print(f"Report: {page}", soft_wrap=True, markup=False, highlight=False)
