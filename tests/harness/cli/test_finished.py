"""A finished run is answered again from what it printed, only as long as nothing that decides it has changed."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from harness.cli import finished
from harness.plugins.registry import STRATEGIES, TASKS
from harness.report.terminal import FittedTable, Head
from tests.harness.cli.test_cli import options
from tests.pair import saved
from tests.plugins import BROKEN
from tests.program import call

ROOT = Path(__file__).resolve().parents[3]
HEAVY = ("torch", "transformers", "pandas", "numpy", "scipy", "matplotlib")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(STRATEGIES, "_files", {})
    monkeypatch.setattr(TASKS, "_files", {})
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that were not answered at once."""
    from harness.run import runner

    found, plain = list[str](), runner.run

    def run(*arguments: object, **more: object) -> object:
        found.append(str(arguments[2]))
        return plain(*arguments, **more)  # type: ignore[arg-type]
    monkeypatch.setattr(runner, "run", run)
    return found


def asking(folder: Path, *more: object) -> list[object]:
    """A small run on a file of prompts."""
    (folder / "words.jsonl").write_text('{"prompt": "one two", "answer": "x"}\n{"prompt": "three", "answer": "y"}\n')
    return ["run", "-m", saved("llama"), "--task-file", folder / "words.jsonl", "--threads", 1, "--max-new-tokens", 4,
            "-o", folder / "run", *more]


def test_the_same_command_is_answered_at_once_until_something_changes(tmp_path: Path, planned: list[str]) -> None:
    arguments = asking(tmp_path, "-s", "top_p:p=0.9")
    first = call(*arguments)
    again = call(*arguments)
    assert (len(planned), again.exit_code, again.stdout) == (1, 0, first.stdout)
    assert "4 samples (4 already done) in" in again.stderr
    assert call(*arguments, "--quiet").stdout == f"{tmp_path / 'run' / 'report' / 'index.html'}\n"
    assert '"leaderboard"' in call(*arguments, "--json").stdout
    assert len(planned) == 1
    kept = (tmp_path / "run" / finished.FILE).read_text()
    for name in ("words.jsonl", "run/records/0000.jsonl", "run/report/index.html"):
        path = tmp_path / name
        os.utime(path, ns=(path.stat().st_mtime_ns + 1,) * 2)
        before = len(planned)
        assert call(*arguments).stdout == first.stdout
        assert len(planned) == before + 1, name
    (tmp_path / "run" / "limits.json.part").touch()
    assert call(*arguments).exit_code == 0
    assert len(planned) == 5, "another file of the run"
    (tmp_path / "run" / finished.FILE).write_text(kept[:100])
    assert call(*arguments).exit_code == 0
    assert len(planned) == 6, "a file that cannot be read"
    assert call(*arguments, "--no-texts").exit_code == 0
    assert len(planned) == 7, "another setting"


def test_a_task_of_the_users_own_code_is_read_again(tmp_path: Path, planned: list[str]) -> None:
    arguments = options(tmp_path, "-s", "greedy", "--limit", 1)
    assert [call(*arguments).exit_code for _ in range(2)] == [0, 0]
    assert len(planned) == 2


def test_a_run_with_failures_is_tried_again(tmp_path: Path, planned: list[str]) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    arguments = options(tmp_path, "--plugin", tmp_path / "broken.py", "-s", "broken", "--limit", 1)
    assert [call(*arguments).exit_code for _ in range(2)] == [3, 3]
    assert len(planned) == 2


def test_the_answer_imports_nothing_heavy(tmp_path: Path) -> None:
    arguments = list(map(str, asking(tmp_path, "-s", "greedy")))
    call(*arguments)
    code = (f"import sys\nfrom harness.cli import main\nsys.argv = ['decodebench', *{arguments!r}]\ntry:\n    main()\n"
            "except SystemExit as end:\n    print(end.code, *{name.partition('.')[0] for name in sys.modules})")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    last = done.stdout.splitlines()[-1].split()
    assert last[0] == "0"
    assert "already done" in done.stderr
    assert not set(HEAVY) & set(last)


def test_a_table_is_restored_as_it_was() -> None:
    table = FittedTable([Head("name"), Head("n [1, 2]", 0, "right", extra=True)], title=Text("T", style="bold"),
                        caption=["a [b] c"])
    table.add(Text.assemble("beam\n", ("1 of 2 [failed]", "red")), "0.5 [0.1, 0.9]", style="dim")
    table.end_section()
    shown = [Console(width=60, record=True, file=io.StringIO()) for _ in range(2)]
    for console, one in zip(shown, (table, FittedTable.restored(table.stored())), strict=True):
        console.print(one)
    assert shown[0].export_text(styles=True) == shown[1].export_text(styles=True)
