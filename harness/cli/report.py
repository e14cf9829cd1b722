"""`decodebench report`: write tables, plots and an HTML page from runs on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

if TYPE_CHECKING:
    from harness.report.detail import Contents
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
    from harness.report import detail
    from harness.store.folder import Store

    stores = [Store.open(run) for run in runs]
    contents = detail.collect(stores)
    return stores, contents, report.write(stores, folder, contents)


def render(runs: Sequence[Path], folder: Path, details: bool = False) -> Path:
    """Write the report of `runs` to `folder`, print its tables, and print and return the path of the page.

    The leaderboard and the verdict come last; with one task, its table is the leaderboard.
    """
    from rich.console import Console

    from harness.measure.summary import run_labels
    from harness.report import detail, ranking, tables, texts

    stores, contents, page = written(runs, folder)
    console = Console()
    boards = list[Any]()
    for label, store, summary in zip(run_labels(stores), stores, contents.summaries, strict=True):
        ranked, several = ranking.board(summary, store.manifest), summary["task"].nunique() > 1
        telling = ranking.worth_showing(ranked)
        console.print(tables.terminal(summary, store.manifest, None if several or not telling else ranked))
        if several and telling:
            boards.append(ranking.terminal(summary, store.manifest, ranked, label if len(stores) > 1 else ""))
    for section in contents.sections:
        if details or section.kind not in detail.ON_REQUEST:
            console.print(texts.terminal(section))
    for board in boards:
        console.print(board)
    if contents.verdict:
        console.print("Verdict", style="bold")
        for line in contents.verdict:
            console.print(line, markup=False, highlight=False)
    console.print(f"Report: {page}", soft_wrap=True, markup=False, highlight=False)
    return page
