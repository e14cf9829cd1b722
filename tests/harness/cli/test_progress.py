"""The progress of a run on stderr: lines, a bar, and the time to go after the first block."""

import io
from pathlib import Path

import pytest
import typer
from rich.console import Console, Group

from harness.cli.progress import Bar, Lines
from harness.store.schema import Record
from tests import runs


def finished(seconds: float, tokens: int, failed: bool = False, block: int = 0) -> Record:
    error = "RuntimeError: on purpose" if failed else None
    record = runs.record("words", "1", "greedy", [runs.turn([tokens], [seconds])], error=error)
    return record.model_copy(update={"block": block})


def test_lines_come_now_and_then() -> None:
    now = 0.0
    lines = Lines(Console(file=io.StringIO(), width=20), clock=lambda: now)
    lines.planned(100, 20, Path("runs/x"), ["No chat template."])
    lines.started("words · greedy")
    for number in range(80):
        now += 2.5
        lines.finished(finished(2.0, 10, failed=number == 0))
    assert isinstance(lines.console.file, io.StringIO)
    first, note, *shown = lines.console.file.getvalue().splitlines()
    assert first == "100 samples (20 already done) in runs/x"
    assert note == "Note: No chat template."
    assert len(shown) == 8
    assert shown[0] == "30/100 · 5 tok/s (mean 5) · 1 failed · words · greedy · 140 s left"
    assert shown[-1].startswith("100/100 ")


def test_lines_come_once_a_minute_at_least_and_every_ten_seconds_at_most() -> None:
    now = 0.0
    slow, fast = (Lines(Console(file=io.StringIO(), width=20), clock=lambda: now) for _ in range(2))
    slow.planned(10_000, 0, Path("a"), [])
    fast.planned(100, 0, Path("a"), [])
    for _ in range(99):
        now += 0.9
        slow.finished(finished(1, 1))
        fast.finished(finished(1, 1))
    files = [lines.console.file for lines in (slow, fast)]
    shown = [file.getvalue().count("\n") - 1 for file in files if isinstance(file, io.StringIO)]
    assert shown[0] == 1
    assert 5 <= shown[1] <= 8


def test_the_bar_fits_a_terminal_of_80_columns() -> None:
    bar = Bar(Console(file=io.StringIO(), force_terminal=True, width=80))
    bar.planned(10, 2, Path("runs/x"), [])
    bar.started("words · contrastive_search:k=4,alpha=0.6 and very many knobs that do not fit on one line")
    bar.finished(finished(2.0, 30))
    paper = Console(file=io.StringIO(), width=80)
    paper.print(Group(*bar.progress.get_renderables()))
    assert isinstance(paper.file, io.StringIO)
    first, second = paper.file.getvalue().splitlines()
    assert first.startswith("15 tok/s (mean 15) · words · contrastive_search:k=4,alpha=0.6 and")
    assert "…" in first
    assert " 3/10 " in second
    assert max(len(first), len(second)) <= 80


def two_blocks(lines: Lines, total: int) -> list[str]:
    """Finish a sample of the first block and one of the second, of 3 s each; returns the lines printed after the first.
    """
    lines.planned(total, 0, Path("runs/x"), [])
    lines.started("words · greedy")
    for block in (0, 1):
        lines.finished(finished(3.0, 10, block=block))
    assert isinstance(lines.console.file, io.StringIO)
    return lines.console.file.getvalue().splitlines()[1:]


def asking(ask: bool = True) -> Lines:
    return Lines(Console(file=io.StringIO(), width=20), ask=ask)


def test_the_time_to_go_is_told_after_the_first_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer.confirm", lambda *_, **__: pytest.fail("asked"))
    assert two_blocks(asking(), 20) == [], "a few seconds are not worth a line"
    told = "About 7 minutes to go, judging by the first block; --limit makes a run shorter."
    assert two_blocks(asking(), 142) == [told]
    assert two_blocks(asking(False), 10_002) == [told.replace("7", "500")], "without a terminal nothing is asked"


def test_a_long_run_asks_whether_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [True, False, None]

    def confirm(*_: object, **__: object) -> bool:
        answer = answers.pop(0)
        if answer is None:
            raise typer.Abort
        return answer
    monkeypatch.setattr("typer.confirm", confirm)
    assert two_blocks(asking(), 1000)
    for _ in ("no", "Ctrl-C"):
        with pytest.raises(KeyboardInterrupt):
            two_blocks(asking(), 1000)
    bar = Bar(Console(file=io.StringIO(), force_terminal=True, width=80), ask=True)
    answers.append(True)
    with bar.progress:
        assert two_blocks(bar, 1000)
        assert bar.progress.live.is_started
    assert not answers
