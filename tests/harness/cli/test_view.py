"""`view` and shell completion."""

import os
import subprocess
import sys
import webbrowser
from pathlib import Path

import pytest

from harness.cli import complete, view
from harness.store.folder import Store
from tests import runs
from tests.figures import leave_out
from tests.program import call


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    leave_out(monkeypatch)
    return runs.write(tmp_path / "run", runs.manifest([runs.strategy("greedy")], [runs.task("words")]),
                      [runs.record("words", "1", "greedy", [runs.turn([1, 1], [0.5, 0.5])], score=1.0)])


def without_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view.sys, "platform", "linux")
    for name in view.DISPLAYS:
        monkeypatch.delenv(name, raising=False)


def test_the_page_is_written_if_it_is_missing_or_old(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    without_display(monkeypatch)
    page = store.folder / "report" / "index.html"
    first = call("view", store.folder)
    assert (first.exit_code, first.stdout, first.stderr) == (0, f"{page}\n", f"Writing {page} …\n")
    assert call("view", store.folder).stderr == "", "it is as new as the records"
    (store.folder / "run.lock").touch()
    os.utime(page, ns=(1, 1))
    assert call("view", store.folder).stderr == f"Writing {page} …\n"


def test_the_browser_opens_where_there_is_a_display(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, works = list[str](), [True, False]

    def browser(address: str) -> bool:
        opened.append(address)
        return works.pop(0)
    monkeypatch.setattr(webbrowser, "open", browser)
    monkeypatch.setenv("DISPLAY", ":0")
    page = store.folder / "report" / "index.html"
    assert call("view", store.folder).stdout == ""
    assert call("view", page.parent).stdout == f"{page}\n", "a folder of a report is viewed as it is"
    assert opened == [page.as_uri()] * 2


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    done = call("view", tmp_path)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"Error: {tmp_path} holds no run")
    assert call("view").exit_code == 2


def test_names_are_completed() -> None:
    assert "beam" in complete.strategies("be")
    assert "greedy,beam" in complete.strategies("greedy,be")
    assert complete.strategies("nothing") == []
    assert "nano_math" in complete.tasks("nano_m")
    assert complete.presets("s") == ["speed"]
    assert {"contrastive_search", "continuation"} <= set(complete.plugins("cont"))
    assert complete.kinds("b") == ["backends"]


def test_the_shell_is_answered_without_imports() -> None:
    code = ("import sys, atexit\natexit.register(lambda: print(*{n.partition('.')[0] for n in sys.modules}, file="
            "sys.stderr))\nfrom harness.cli import main\nmain()")
    words = {"_DECODEBENCH_COMPLETE": "complete_bash", "COMP_WORDS": "decodebench run -s greedy,bea", "COMP_CWORD": "3"}
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **words}, capture_output=True, text=True,
                          check=False, cwd=Path(__file__).resolve().parents[3])
    assert done.stdout.split()[0] == "greedy,beam"
    assert not {"torch", "numpy", "pandas", "strategies"} & set(done.stderr.split())
