"""`decodebench report`: write tables, plots and an HTML page from runs on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def command(
    runs: Annotated[list[Path], Argument(metavar="DIR", help="folders that `run` wrote", show_default=False)],
    output: Annotated[Path | None, Option("-o", "--output", metavar="DIR",
                                          help="output folder [DIR/report, ./report for several runs]")] = None,
    details: Annotated[bool, Option("--details", help="also print acceptance and speed in detail")] = False,
) -> None:
    """Write tables, plots and index.html, and print the tables."""
    render(runs, output or (runs[0] / "report" if len(runs) == 1 else Path("report")), details)


def render(runs: Sequence[Path], folder: Path, details: bool = False) -> Path:
    """Write the report of `runs` to `folder`, print its tables, and print and return the path of the page."""
    from rich.console import Console

    from harness import report
    from harness.report import detail, texts
    from harness.report.tables import terminal
    from harness.store.folder import Store

    stores, console = [Store.open(run) for run in runs], Console()
    contents = detail.collect(stores)
    page = report.write(stores, folder, contents)
    for store, summary in zip(stores, contents.summaries, strict=True):
        console.print(terminal(summary, store.manifest))
    for section in contents.sections:
        if details or section.kind not in detail.ON_REQUEST:
            console.print(texts.terminal(section))
    if contents.verdict:
        console.print("Verdict", style="bold")
        for line in contents.verdict:
            console.print(line, markup=False, highlight=False)
    console.print(f"Report: {page}", soft_wrap=True, markup=False, highlight=False)
    return page
