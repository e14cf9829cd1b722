"""Every command line of README and docs is one that the program understands: options, strategies, knobs, tasks."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from harness.cli import app
from harness.plugins.declared import check_specs
from harness.plugins.registry import STRATEGIES, TASKS
from harness.plugins.spec import Spec

ROOT = Path(__file__).resolve().parents[3]
OWN = {"my_min_p", "mine", "capitals"}  # plugins that the reader writes; the tests of their pages run them
SYNTAX = re.compile(r"[\[|]")  # of a line that shows alternatives


def commands() -> list[str]:
    """The command lines in the code blocks of all pages, whole ones, without comments."""
    found = list[str]()
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            lines = (line.strip().removeprefix("$ ") for line in block.replace("\\\n", " ").splitlines())
            found += [line for line in lines if line.startswith("decodebench ") and not SYNTAX.search(line)]
    return list(dict.fromkeys(found))


def test_many_commands_are_found() -> None:
    found = {line.split()[1] for line in commands()}
    assert {"run", "report", "compare", "check", "verify", "sweep", "judge", "limits", "list", "show"} <= found


@pytest.mark.parametrize("line", commands())
def test_the_program_understands_a_documented_command(line: str) -> None:
    name, *words = shlex.split(line, comments=True)[1:]
    program = typer.main.get_command(app)
    command = program.get_command(program.make_context("decodebench", [name]), name)  # type: ignore[attr-defined]
    assert command is not None, name
    given = command.make_context(name, list(words)).params
    specs, tasks = ([spec for spec in given.get(key) or () if Spec.parse(spec).name not in OWN]
                    for key in ("strategies", "tasks"))
    check_specs(specs, tasks)
    if name == "show":
        assert {*words} & {*STRATEGIES.names(), *TASKS.names(), *OWN}, words
