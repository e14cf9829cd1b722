"""`decodebench merge`: join the shards of a run."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from harness.errors import UserError


def command(
    folders: Annotated[list[Path], Argument(metavar="DIR…", show_default=False,
                                            help="shards, or folders with shards, in any order")],
    output: Annotated[Path | None, Option("-o", "--output", metavar="DIR", help="folder of the whole run [DIR]")
                      ] = None,
    machine: Annotated[str | None, Option(metavar="TEXT", help="keep the times of machines with this in their "
                                                               "description [most samples]")] = None,
) -> int:
    """Join the shards of a run, and print its tables.

    Quality and counts are those of all machines, times those of one kind. Exit code 3: some samples are missing.
    """
    from harness.cli.report import render
    from harness.store.merge import merge
    from harness.store.schema import UNFINISHED

    if output is None and len(folders) > 1:
        raise UserError("Give a folder for the whole run with -o.")
    merged = merge(folders, output or folders[0], shlex.join(["decodebench", *sys.argv[1:]]), machine)
    render([merged.store.folder], merged.store.folder / "report")
    typer.echo(f"Run: {merged.store.folder}")
    return 3 if any(note.startswith(UNFINISHED) for note in merged.notes) else 0
