"""No command shows warnings, log lines or progress bars of libraries to its user."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.judged import data, run

ROOT = Path(__file__).resolve().parents[3]
SMALL = ["-t", "nano_math", "--limit", "2", "--max-new-tokens", "4"]
COMMANDS = [
    ["run", "-s", "greedy", "-s", "speculative", *SMALL, "--output", "run"],
    ["report", "run"],
    ["compare", "run", "run"],
    ["check", "run", "--write", "baseline.json"],
    ["limits", "run"],
    ["verify", "-s", "top_p", *SMALL, "--draws", "4"],
    ["sweep", "-s", "prompt_lookup", "--grid", "length=2", *SMALL, "--output", "sweep"],
    ["judge", "judged", "--judge", "nano", "--data", "data", "--max-tokens", "4"],
    ["doctor"],
]
# Each command starts as the installed program does; one process for all of them imports the libraries once.
PROGRAM = """
import json, sys
from harness.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["decodebench", *arguments]
    try:
        main()
    except SystemExit as end:
        print(f"{arguments[0]} ends with {end.code or 0}", file=sys.stderr)
"""
OWN = re.compile(r"\w+ ends with \d|\d+ samples in .*|\d+/\d+ · .*|\d+ verdicts .*|\d+ could not be .*|"
                 r".*: \d+ of \d+ settings .*|\d+ dev samples, .*")


@pytest.mark.slow
def test_commands_write_nothing_of_libraries_to_stderr(tmp_path: Path) -> None:
    run(tmp_path / "judged", data(tmp_path / "data", 1), {"greedy": [("One.", "Two.")]})
    done = subprocess.run([sys.executable, "-c", PROGRAM, json.dumps(COMMANDS)], capture_output=True, text=True,
                          cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    lines = done.stderr.splitlines()
    assert [line for line in lines if not OWN.fullmatch(line)] == []
    ends = [line for line in lines if " ends with " in line]
    assert ends == [f"{command} ends with 0" for command, *_ in COMMANDS]
