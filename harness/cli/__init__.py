"""The command line; every command imports its dependencies when it runs, so that `--help` and `list` are fast."""

import logging
import os
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from harness.cli import (
    check,
    compare,
    doctor,
    export,
    judge,
    limits,
    listing,
    merge,
    plan_jobs,
    push,
    report,
    run,
    show,
    status,
    study,
    sweep,
    train_head,
    verify,
    view,
)
from harness.cli.aliases import WithBareRay, our_name
from harness.errors import UserError, wrong_input


class Program(TyperGroup):
    """Exit with the code that a command returns, and print errors in the user's input as one sentence."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Parse and run one command line; returns the exit code if `standalone_mode` is false."""
        message = ""
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
        except (UserError, OSError) as error:
            code, message = getattr(error, "code", 2), wrong_input(error)
            if details := getattr(error, "details", ""):
                typer.echo(details, err=True)
        except typer.TyperException as error:
            code, message = 2, error.format_message()
        if message:
            typer.echo(f"Error: {message}", err=True)
        return sys.exit(code) if extra.get("standalone_mode", True) else code


app = typer.Typer(cls=Program, rich_markup_mode=None, pretty_exceptions_enable=False,
                  no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"],
                                                          "token_normalize_func": our_name})
COMMANDS: dict[str, Callable[..., Any]] = {
    "run": run.command, "report": report.command, "view": view.command, "compare": compare.command,
    "judge": judge.command, "plan-jobs": plan_jobs.command, "status": status.command,
    "merge": merge.command, "limits": limits.command, "verify": verify.command, "check": check.command,
    "sweep": sweep.command, "study": study.command, "train-head": train_head.command, "list": listing.command,
    "show": show.command, "export": export.command, "import": export.import_command, "push": push.command,
    "doctor": doctor.command,
}
for name, command in COMMANDS.items():
    app.command(name, context_settings=plan_jobs.SETTINGS if command is plan_jobs.command else None,
                cls=WithBareRay if command is run.command else None)(command)


def _version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(version("decodebench"))
        except PackageNotFoundError:
            typer.echo("0+unknown")
        raise typer.Exit


@app.callback()
def _program(shown: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True,
                                                 help="Show the version and exit.")] = False) -> None:
    """Benchmark quality and speed of decoding strategies for language models."""


def _silence_libraries() -> None:
    """Keep warnings, log lines and progress bars of libraries off the terminal, unless Python is run with `-W`."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(name, "1")
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def main() -> None:
    """Run the program `decodebench`."""
    _silence_libraries()
    app(prog_name="decodebench")
