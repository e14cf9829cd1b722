"""`decodebench sweep`: which settings of a strategy to use, chosen on some examples and judged on others."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from harness.errors import UserError, suggestion

Text = str | None
Number = int | None
Flag = bool | None
OWN = ("grid", "budget", "dev", "by")
AIMS = ("quality", "speed", "forwards")


def command(
    context: typer.Context,
    strategies: Annotated[list[str], Option("-s", "--strategy", metavar="NAME[:k=v,…]", show_default=False,
                                            help="its default setting; again for more")],
    grid: Annotated[list[str] | None, Option(metavar="KNOB=V,V", help="values to try; again for more [the "
                                             "strategy's own, of all knobs]")] = None,
    tasks: Annotated[list[str] | None, Option("-t", "--task", metavar="TASK",
                                              help="again for more [the embedded ones]")] = None,
    limit: Annotated[Number, Option(metavar="N", help="first N examples of a task [all]")] = None,
    budget: Annotated[int, Option(metavar="N", help="most settings of a strategy [32]", show_default=False)] = 32,
    dev: Annotated[float, Option(metavar="SHARE", help="examples to choose on [0.5]", show_default=False)] = 0.5,
    by: Annotated[Text, Option(metavar="AIM", help="quality, speed or forwards [quality, or speed if the output stays "
                                                   "the same]")] = None,
    model: Annotated[Text, Option("-m", "--model", metavar="MODEL", help="nano, a folder or a hub id [nano]")] = None,
    draft: Annotated[Text, Option(metavar="MODEL", help="the small model that drafts")] = None,
    concurrency: Annotated[Number, Option("--concurrency", "--batch-size", metavar="N",
                                          help="sequences decoded in one batch (continuous batching) [1]")] = None,
    samples: Annotated[Number, Option(metavar="N", help="answers to each prompt [1]")] = None,
    repeats: Annotated[Number, Option(metavar="N", help="times that everything is run [1]")] = None,
    max_new_tokens: Annotated[Number, Option(metavar="N", help="length of an answer [the task's]")] = None,
    seed: Annotated[Number, Option(metavar="N", help="seed of draws, order and split [0]")] = None,
    dtype: Annotated[Text, Option(metavar="D", help="float32, bfloat16 or float16 [float32]")] = None,
    device: Annotated[Text, Option(metavar="D", help="cpu, cuda, cuda:1, … [auto]")] = None,
    threads: Annotated[Number, Option(metavar="N", help="CPU threads [1 for a small model]")] = None,
    data: Annotated[Path | None, Option(metavar="DIR", help="data sets [$DECODEBENCH_DATA, then the hub]")] = None,
    plugins: Annotated[list[Path] | None, Option("--plugin", metavar="FILE.py",
                                                 help="a strategy or task of your own; again for more")] = None,
    allow_code_execution: Annotated[Flag, Option("--allow-code-execution",
                                                 help="run the programs that any model writes")] = None,
    output: Annotated[Path | None, Option("-o", "--output", metavar="DIR", help="folder [runs/sweep-…]")] = None,
) -> int:
    """Find settings on one half of the examples, judge them on the other.

    Says which knobs matter, and which have no effect. The same command resumes. Exit code 3: some samples failed.
    """
    if not 0 < dev < 1:
        raise UserError(f"--dev must be between 0 and 1, not {dev:g}.")
    if budget < 2:
        raise UserError(f"--budget must be at least 2 (the default and another setting), not {budget}.")
    if by is not None and by not in AIMS:
        raise UserError(f"There is no aim '{by}'.{suggestion(by, AIMS)}")
    from harness.store.config import RunConfig

    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value
                             for key, value in context.params.items()
                             if key not in OWN and value not in (None, [], ())}
    try:
        return _swept(RunConfig(**given), grid or [], budget, dev, by)
    except KeyboardInterrupt:
        typer.echo("Stopped: the same command resumes.", err=True)
        return 130


def _swept(config: Any, grid: list[str], budget: int, dev: float, by: str | None) -> int:
    from rich.console import Console

    from harness.cli.progress import watching
    from harness.plugins.registry import add_plugin
    from harness.report import put
    from harness.report import sweep as shown
    from harness.sweep.grid import read
    from harness.sweep.sweep import Asked, sweep

    for path in config.plugins:
        add_plugin(path)
    asked: dict[str, Any] = {"grid": read(grid, config.strategies), "budget": budget, "share": dev, "aim": by}
    with watching() as watcher:
        folder, found = sweep(config, Asked(**asked), watcher, shlex.join(["decodebench", *sys.argv[1:]]), watcher.say)
    Console(highlight=False).print(shown.terminal(found))
    put(folder / "sweep.md", shown.markdown(found))
    typer.echo(f"Sweep: {put(folder / 'sweep.json', found.model_dump_json(indent=1) + chr(10))}")
    return 3 if found.failed else 0
