"""Run the program `decodebench` in this process."""

from functools import cache

import typer.main
import typer.testing
from typer.testing import CliRunner, Result

from harness.cli import app

typer.testing._get_command = cache(typer.main.get_command)  # else each call builds the options of all commands anew


def call(*arguments: object, typed: str | None = None) -> Result:
    """Return the exit code and the output of one command line; `typed` is what the person at the terminal types."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], typed, prog_name="decodebench")
