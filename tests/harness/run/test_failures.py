"""Failures: what records say of them, and when the same one ends the run."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.plugins.registry import STRATEGIES, TASKS
from harness.run.failures import REPEATS, Failures, RunStopped, error_text, failure_kind
from harness.store.config import RunConfig
from harness.store.folder import Store
from harness.store.schema import Record
from tests.harness.run.test_runner import BROKEN, TASK, config, go
from tests.pair import saved
from tests.program import call
from tests.runs import record

__all__ = ["config"]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(STRATEGIES, "_files", {})
    monkeypatch.setattr(TASKS, "_files", {})


EIGHT = TASK.replace('("one two", "three", "four five six")', 'tuple("abcdefgh")')
UNDEFINED = BROKEN.replace('raise RuntimeError("on purpose")', "yield [undefined]").replace("Broken", "Careless")


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def noted(failures: Failures, strategy: str, error: Exception | None) -> Record:
    one = record("words", "0", strategy, error=error and error_text(error))
    failures.note(one, error)
    return one


def test_a_record_names_the_file_and_line_of_a_bug_and_not_of_refused_input() -> None:
    bug = raised(ValueError("no"))
    line = bug.__traceback__.tb_lineno if bug.__traceback__ else 0
    assert error_text(bug) == f"ValueError: no (test_failures.py, line {line})"
    assert error_text(raised(UserError("too long"))) == "UserError: too long"
    assert error_text(RuntimeError("from another process")) == "RuntimeError: from another process"


def test_the_same_failure_of_one_strategy_ends_the_run_and_others_do_not() -> None:
    failures = Failures()
    for _ in range(REPEATS - 1):
        noted(failures, "broken", raised(RuntimeError("CUDA error 12")))
        noted(failures, "greedy", None)
    failures.check()
    noted(failures, "broken", raised(RuntimeError("CUDA error 3")))
    with pytest.raises(RunStopped, match=r"^broken failed 5 times in a row .*\(RuntimeError: CUDA error 3"):
        failures.check()
    assert "Traceback" in failures.first
    assert failures.first.endswith("RuntimeError: CUDA error 12")


def test_the_same_failure_of_every_strategy_ends_the_run() -> None:
    failures = Failures()
    for number in range(REPEATS):
        noted(failures, f"s{number}", raised(RuntimeError("CUDA error")))
    with pytest.raises(RunStopped, match=r"^Every strategy failed 5 times"):
        failures.check()


def test_a_success_another_failure_and_refused_input_begin_the_count_anew() -> None:
    failures = Failures()
    for between in (None, raised(KeyError("x")), raised(UserError("too long"))):
        for _ in range(REPEATS - 1):
            noted(failures, "broken", raised(RuntimeError("again")))
        noted(failures, "broken", between)
    for _ in range(3 * REPEATS):
        noted(failures, "broken", raised(UserError("too long")))
    failures.check()
    assert failure_kind(raised(UserError("too long"))) == ""


def test_a_run_ends_with_a_sentence_keeps_what_is_done_and_resumes(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "words.py").write_text(EIGHT)
    broken = replace(config, strategies=("broken",))
    with pytest.raises(RunStopped, match=r"broken failed 5 times.*\(broken\.py, line 14\).*resume with the same"):
        go(broken)
    records = list(Store.open(config.output or Path()).records())
    assert [r.status for r in records if r.strategy == "broken"] == ["failed"] * REPEATS
    assert {r.status for r in records if r.strategy == "greedy"} == {"ok"}


def test_a_bug_in_a_strategy_shows_its_first_traceback(tmp_path: Path) -> None:
    (tmp_path / "words.py").write_text(EIGHT)
    (tmp_path / "careless.py").write_text(UNDEFINED)
    done = call("run", "-m", saved("llama"), "-t", "words", "-s", "careless", "--threads", 1, "--plugin",
                tmp_path / "words.py", "--plugin", tmp_path / "careless.py", "-o", tmp_path / "run")
    assert done.exit_code == 3
    assert done.stderr.count("Traceback (most recent call last):") == 1
    assert f'File "{tmp_path / "careless.py"}", line 14, in generate' in done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        "Error: careless failed 5 times in a row in the same way (NameError: name 'undefined' is not defined "
        "(careless.py, line 14))")


def test_the_page_counts_every_sample(tmp_path: Path) -> None:
    (tmp_path / "words.py").write_text(TASK)
    (tmp_path / "broken.py").write_text(BROKEN)
    done = call("run", "-m", saved("llama"), "-t", "words", "-s", "broken", "--limit", 2, "--threads", 1, "--plugin",
                tmp_path / "words.py", "--plugin", tmp_path / "broken.py", "-o", tmp_path / "run")
    assert done.exit_code == 3
    assert "2 of 4 samples failed" in done.stderr
    assert "4 samples, 2 failed" in (tmp_path / "run" / "report" / "index.html").read_text()
