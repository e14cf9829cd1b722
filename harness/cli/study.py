"""`decodebench study`: run an experiment on a model, and print its table."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from harness.cli import complete
from harness.cli.options import check_names
from harness.errors import UserError
from harness.plugins.registry import STUDIES, add_plugin
from harness.plugins.spec import Spec, separated
from harness.plugins.study import Setting, Study
from harness.store.config import RunConfig

if TYPE_CHECKING:
    import pandas as pd

    from harness.report.terminal import FittedTable


def command(
    study: Annotated[str, Argument(metavar="STUDY[:k=v,…]", show_default=False, autocompletion=complete.studies,
                                   help="name and knobs; `list studies` shows all")],
    model: Annotated[str, Option("-m", "--model", metavar="MODEL", show_default=False,
                                 help="nano, smollm2, a folder, a .gguf file or a hub id [nano]")] = "nano",
    draft: Annotated[str | None, Option(metavar="MODEL", help="second model, for studies of two")] = None,
    tasks: Annotated[list[str] | None, Option("-t", "--task", metavar="TASK", callback=separated,
                                              autocompletion=complete.tasks, help="repeatable [by the study]")] = None,
    limit: Annotated[int | None, Option(metavar="N", help="examples [by the study]")] = None,
    seed: Annotated[int, Option(metavar="N", help="of all random choices [0]", show_default=False)] = 0,
    dtype: Annotated[str | None, Option(metavar="D", help="float32, bfloat16 or float16 [as in run]")] = None,
    device: Annotated[str, Option(metavar="D", help="cpu, cuda, cuda:1, … [auto]", show_default=False)] = "auto",
    threads: Annotated[int | None, Option(metavar="N", help="CPU threads [1 for a small model]")] = None,
    data: Annotated[Path | None, Option(metavar="DIR", help="data sets [$DECODEBENCH_DATA, then the hub]")] = None,
    plugins: Annotated[list[Path] | None, Option("--plugin", metavar="FILE.py",
                                                 help="file with your own study, strategy or task; repeatable")] = None,
    output: Annotated[Path | None, Option("-o", "--output", metavar="DIR",
                                          help="folder of the table and the plot [runs/studies/STUDY]")] = None,
) -> int:
    """Run a study of a model.

    Writes the table as CSV and a plot.
    """
    config = RunConfig(model=model, draft=draft, tasks=tuple(tasks or ()), limit=limit, seed=seed, dtype=dtype,
                       device=device, threads=threads, data=data)
    for path in plugins or ():
        add_plugin(path)
    chosen, folder = STUDIES.build(study), output or Path("runs") / "studies" / Spec.parse(study).name
    check_names(config)
    for setting, option in (("draft", "--draft"), ("tasks", "--task"), ("limit", "--limit")):
        if getattr(config, setting) and setting not in chosen.heeds:
            raise UserError(f"The study {chosen.name} has no use for {option}: leave it out.")
    from rich.console import Console

    from harness.store.files import replace_file

    with Console(stderr=True).status("Loading …") as status:
        try:
            table = chosen.table(Setting(config, folder, lambda text: status.update(f"{text} …")))
        except KeyboardInterrupt:
            typer.echo("Stopped.", err=True)
            return 130
    folder.mkdir(parents=True, exist_ok=True)
    Console(highlight=False).print(_fitted(table))
    typer.echo(f"Table: {replace_file(folder / f'{chosen.name}.csv', table.to_csv(index=False))}")
    typer.echo(f"Plot: {_plotted(chosen, table, folder / f'{chosen.name}.png')}")
    return 0


def _fitted(table: "pd.DataFrame") -> "FittedTable":
    """Return the table for a terminal: texts to the left, numbers to the right."""
    from pandas.api.types import is_numeric_dtype

    from harness.report.terminal import FittedTable, Head, figures

    names = list(map(str, table.columns))
    numbers = [name for name in names if is_numeric_dtype(table[name])]
    heads = dict(zip(numbers, figures(numbers), strict=True))
    fitted = FittedTable([heads.get(name, Head(name)) for name in names])
    for row in table.itertuples(index=False):
        fitted.add(*(_cell(value) for value in row))
    return fitted


def _cell(value: object) -> str:
    """Return a number to three significant digits, a whole one with all."""
    if not isinstance(value, float):
        return str(value)
    if value != value:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def _plotted(study: Study, table: "pd.DataFrame", file: Path) -> Path:
    import matplotlib

    from harness.report.plot_parts import STYLE, new_axes

    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(5.6, 3.4)
        study.plot(table, axes)
        figure.savefig(file, dpi=150, bbox_inches="tight")
    return file
