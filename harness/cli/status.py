"""`decodebench status`: how far runs and shards are."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument

if TYPE_CHECKING:
    from harness.store.progress import Progress


def command(
    folders: Annotated[list[Path], Argument(metavar="DIR…", show_default=False,
                                            help="folders of runs or shards, or with shards in them")],
) -> None:
    """Show samples done, failed and left, and the time left.

    The time left is what the samples so far would take for the others.
    """
    from rich.console import Console

    from harness.report.terminal import FittedTable, Head, figures
    from harness.store.progress import progress, runs_in

    table = FittedTable([Head("run"), *figures(["done", "failed", "left", "time left"]), Head("state")])
    found = [progress(store) for store in runs_in(folders)]
    for one in found:
        table.add(one.name, f"{one.done}", f"{one.failed}", "?" if one.left is None else f"{one.left}",
                  _time(one), one.state)
    Console(highlight=False).print(table)


def _time(one: "Progress") -> str:
    """Return the time left in words; empty if nothing is left or nothing was timed."""
    if not one.left or one.seconds_left is None:
        return ""
    seconds = one.seconds_left
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
