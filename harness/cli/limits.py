"""`decodebench limits`: what the machine of a run can do, and how near the run came."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def command(
    runs: Annotated[list[Path], Argument(metavar="DIR", help="folders that `run` wrote", show_default=False)],
    again: Annotated[bool, Option("--again", help="measure once more what was measured")] = False,
) -> None:
    """Measure what forwards take, and print ideal speed-ups.

    Times forwards of the run's models over 1, 2, … tokens and copies of the weights, and keeps them in DIR/limits.json,
    so that `report` shows them too. Runs of different --concurrency also give the concurrency at which a strategy stops
    paying.
    """
    from rich.console import Console

    from harness.report import detail, texts
    from harness.store.folder import Store
    from harness.verify.forwards import measure

    stores, console = [Store.open(run) for run in runs], Console()
    with Console(stderr=True).status("Measuring …") as status:
        for store in stores:
            if again or store.limits() is None:
                store.write_limits(measure(store, lambda text: status.update(f"Measuring {text} …")))
    for section in detail.limits(stores):
        console.print(texts.terminal(section))
