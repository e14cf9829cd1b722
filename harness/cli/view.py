"""`decodebench view`: open the page of a run in the browser."""

import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument

from harness.cli.report import written
from harness.store.lock import HOLDER, LOCK

DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")  # variables without which a browser would start in the terminal


def command(
    run: Annotated[Path, Argument(metavar="DIR", help="folder that `run` or `report` wrote", show_default=False)],
) -> None:
    """Open the page of a run, and write it first if need be.

    Without a display, the path of the page is printed instead.
    """
    page = run / "index.html"
    if not page.is_file():
        from harness.cli.early_page import page_of
        from harness.store.folder import Store

        store, page = Store.open(run), page_of(run)
        if not _current(page, store.folder):
            typer.echo(f"Writing {page} …", err=True)
            written([run], page.parent)
    if not (_has_display() and webbrowser.open(page.resolve().as_uri())):
        typer.echo(page)


def _current(page: Path, folder: Path) -> bool:
    """Return whether the page is as new as everything of the run outside the folder of the report."""
    if not page.is_file():
        return False
    made = page.stat().st_mtime_ns
    files = (path for path in folder.rglob("*") if path.is_file() and page.parent not in path.parents)
    return all(path.stat().st_mtime_ns <= made for path in files if path.name not in (LOCK, HOLDER))


def _has_display() -> bool:
    """Return whether a browser can open a window."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in DISPLAYS)
