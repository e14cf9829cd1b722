"""`decodebench compare`: show the changes from one run to another."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from harness.errors import UserError


def command(
    a: Annotated[Path, Argument(metavar="A", help="folder of the old run", show_default=False)],
    b: Annotated[Path, Argument(metavar="B", help="folder of the new run", show_default=False)],
    force: Annotated[bool, Option("--force", help="compare runs of different data, models or machines")] = False,
    diffs: Annotated[int, Option(metavar="N", help="show the first N changed answers [0]", show_default=False)] = 0,
    as_json: Annotated[Path | None, Option("--json", metavar="FILE", help="write all results as JSON")] = None,
    as_markdown: Annotated[Path | None, Option("--markdown", metavar="FILE", help="write a summary for a pull "
                                                                                  "request")] = None,
) -> None:
    """Compare two runs: what changed, and whether it is significant.

    Samples are paired. Speeds are relative to each run's own baseline, which cancels the speed of the machine. The exit
    code is 0 even if the runs differ.
    """
    if diffs < 0:
        raise UserError(f"--diffs must be at least 0, not {diffs}.")
    from rich.console import Console

    from harness.measure.compare import compare
    from harness.report import compare as shown
    from harness.store.files import replace_file
    from harness.store.folder import Store

    comparison = compare(Store.open(a), Store.open(b), force=force, texts=diffs)
    if as_json:
        replace_file(as_json, comparison.model_dump_json(indent=2) + "\n")
    if as_markdown:
        replace_file(as_markdown, shown.markdown(comparison))
    Console(highlight=False).print(shown.terminal(comparison))
