"""`decodebench export` and `decodebench import`: convert runs to and from the formats of other tools."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from harness.export import EXPORTS, IMPORTS


def command(
    run: Annotated[Path, Argument(metavar="DIR", help="a folder that `run` or `import` wrote", show_default=False)],
    format: Annotated[str, Option("--format", metavar="FORMAT", help=f"one of {', '.join(EXPORTS)}",
                                  show_default=False)],
    output: Annotated[Path | None, Option("-o", "--output", metavar="DIR",
                                          help="folder for the files [DIR/export/FORMAT]")] = None,
) -> None:
    """Write a run in the format of another tool."""
    from harness.export import export
    from harness.store.folder import Store

    exported = export(Store.open(run), format, output or run / "export" / format)
    for note in exported.notes:
        typer.echo(f"Note: {note}", err=True)
    for path in exported.files:
        typer.echo(str(path))


def import_command(
    files: Annotated[list[str], Argument(metavar="[NAME=]FILE…", show_default=False,
                                         help="result files, optionally with the strategy's name; the first is the "
                                              "baseline")],
    format: Annotated[str, Option("--format", metavar="FORMAT", help=f"one of {', '.join(IMPORTS)}",
                                  show_default=False)],
    output: Annotated[Path, Option("-o", "--output", metavar="DIR", help="folder of the run", show_default=False)],
) -> None:
    """Convert another tool's results to a run folder.

    Values that a file does not contain stay empty. Several files of one strategy are its repeats.
    """
    from harness.export import import_run

    store = import_run(files, format, output, shlex.join(["decodebench", *sys.argv[1:]]))
    for warning in store.manifest.warnings:
        typer.echo(f"Note: {warning}", err=True)
    typer.echo(f"Run: {store.folder}")
