"""Runs docs/writing-a-task.md: its files are written, and its tests and its commands are run."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from harness.plugins.data import DataSource
from harness.plugins.registry import STRATEGIES, TASKS, Registry
from harness.plugins.spec import Spec
from harness.plugins.task import Task
from harness.plugins.task_file import CHECKERS, HEADER
from harness.store.folder import Store
from tests.pair import saved
from tests.program import call

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "writing-a-task.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
FILES = {"json": ("my.jsonl", "data/capitals/test.jsonl"), "text": ("texts.txt",),
         "python": ("capitals.py", "test_capitals.py")}
SMALL = ["--threads", "1", "--device", "cpu"]


def blocks(kind: str) -> list[str]:
    return [text for found, text in BLOCKS if found == kind]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of the page."""
    (tmp_path / "data" / "capitals").mkdir(parents=True)
    for kind, names in FILES.items():
        for name, text in zip(names, blocks(kind), strict=True):
            assert f"`{name}`" in PAGE
            (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_commands_of_the_page_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(TASKS, "_files", {})
    monkeypatch.setattr(STRATEGIES, "_files", {})
    commands = [shlex.split(line)[2:] for text in blocks("console") for line in text.splitlines()]
    assert [words[0] for words in commands] == ["run", "run", "show", "run", "-m"]
    seen = Counter[str]()
    for number, words in enumerate(commands[:-1]):
        run = ["-m", str(saved("llama")), *SMALL, "-o", f"run{number}"] if words[0] == "run" else []
        done = call(*words, *run)
        assert done.exit_code == 0, f"{words}\n{done.output}"
        if run:
            records = list(Store.open(folder / f"run{number}").records())
            assert {record.status for record in records} == {"ok"}
            assert {Spec.parse(record.strategy).name for record in records} == {"greedy", "top_p"}
            seen.update(record.task.partition(",")[0] for record in records)
    assert seen == {"task_file:file=my.jsonl": 8, "continuation:file=texts.txt": 4, "capitals:shots=1": 4,
                    "capitals:shots=2": 2}


def test_the_test_of_the_page_passes(folder: Path) -> None:
    command = blocks("console")[-1].removeprefix("$ python ").split()
    done = subprocess.run([sys.executable, *command, "-p", "no:cacheprovider"], cwd=folder, capture_output=True,
                          text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_rows_of_the_page_are_checked_as_it_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    registry = Registry("task", "tasks", Task)  # type: ignore[type-abstract]
    task = registry.build("task_file:file=my.jsonl")
    assert (task.max_new_tokens, task.stop) == (24, ("\n",))
    answers = {"my/1": (["2 + 3 = 5."], ["6"]), "my/2": (["Lima, of course."], ["lima"]),
               "my/3": (["Paris.", "It is Tokyo."], ["It is Tokyo.", "Paris."]), "my/4": (["The answer is A."], ["B"])}
    for example in task.examples(DataSource()):
        right, wrong = answers[example.id]
        assert (task.score(example, right), task.score(example, wrong)) == ({"correct": 1.0}, {"correct": 0.0})


def test_the_page_names_every_checker_and_every_setting() -> None:
    assert tuple(re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE)) == CHECKERS
    assert all(f"`{name}`" in PAGE for name in HEADER)


def test_a_package_made_as_the_page_says_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [table] = (tomllib.loads(text)["project"]["entry-points"]["decodebench.tasks"] for text in blocks("toml"))
    package, info = folder / "my_package", folder / "my_package-1.0.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").touch()
    (package / "capitals.py").write_text(blocks("python")[0], encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n", encoding="utf-8")
    points = "\n".join(f"{name} = {value}" for name, value in table.items())
    (info / "entry_points.txt").write_text(f"[decodebench.tasks]\n{points}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "my_package", raising=False)  # of another page
    registry = Registry("task", "tasks", Task)  # type: ignore[type-abstract]
    monkeypatch.setenv("DECODEBENCH_PLUGINS", "my-package")
    assert registry.build("capitals").spec() == "capitals:shots=1"


def test_the_page_stays_short() -> None:
    assert len(PAGE.splitlines()) <= 175
    assert all(json.loads(line) for text in blocks("json") for line in text.splitlines())
    assert len([line for line in blocks("python")[0].splitlines() if line.strip()]) <= 35
