"""`decodebench limits`: measure the highest speed-ups that a run's machine allows."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

SERVER = ("The forward passes of a server cannot be timed from here: of its runs, limits shows only the speed-up at "
          "each --concurrency, if there are several.")


def command(
    runs: Annotated[list[Path], Argument(metavar="DIR", help="folders that `run` wrote", show_default=False)],
    again: Annotated[bool, Option("--again", help="repeat measurements that exist")] = False,
) -> None:
    """Measure the cost of forward passes, and print ideal speed-ups.

    Times forward passes of the run's models over 1, 2, … tokens and copies of the weights, and stores the result in
    DIR/limits.json for `report`. Runs with different --concurrency also show the batch size from which a strategy is
    slower than the baseline.
    """
    from rich.console import Console

    from harness.report import detail, texts
    from harness.store.folder import Store
    from harness.store.lock import locked
    from harness.verify.forwards import measure

    def of_server(store: Store) -> bool:
        return "server" in store.manifest.config

    stores, console = [Store.open(run) for run in runs], Console()
    with Console(stderr=True).status("Measuring …") as status:
        for store in stores:
            if not of_server(store) and (again or store.limits() is None):
                with locked(store.folder):
                    store.write_limits(measure(store, lambda text: status.update(f"Measuring {text} …")))
    for section in detail.limits(stores):
        console.print(texts.terminal(section))
    if any(map(of_server, stores)):
        console.print(SERVER, soft_wrap=True)
