"""The page of a run that goes on: when it is written, and that nothing in it reaches the run."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from harness.cli import early_page
from harness.cli.early_page import PAUSE, EarlyPage, page_of
from harness.cli.progress import Lines
from tests import runs
from tests.harness.cli.test_progress import finished


class Watched:
    """A run of 100 samples of 20 s each, in blocks of two, whose clock and pages are made up."""

    def __init__(self, folder: Path, costs: float = 0.0, error: type[Exception] | None = None) -> None:
        self.now, self.costs, self.error, self.written = 0.0, costs, error, list[int]()
        self.lines = Lines(Console(file=io.StringIO(), width=20), clock=lambda: self.now)
        self.early = EarlyPage(self.lines, self.write, clock=lambda: self.now)
        self.folder = folder

    def write(self, folder: Path) -> None:
        self.written.append(self.lines.done)
        self.now += self.costs
        page_of(folder).parent.mkdir(parents=True, exist_ok=True)
        page_of(folder).touch()
        if self.error:
            raise self.error("on purpose")

    def go(self, samples: int = 100, seconds: float = 20.0) -> list[int]:
        self.early.planned(samples, 0, self.folder, [])
        for number in range(samples):
            self.early.started("words · greedy")
            self.now += seconds
            self.early.finished(finished(seconds, 10, block=number // 2))
        return self.written


def test_the_page_comes_after_the_first_block_and_then_with_every_tenth(tmp_path: Path) -> None:
    run = Watched(tmp_path)
    assert run.go() == list(range(3, 97, 10))
    assert isinstance(run.lines.console.file, io.StringIO)
    told = [line for line in run.lines.console.file.getvalue().splitlines() if line.startswith("Page so far")]
    assert told == [f"Page so far, written again from time to time: {page_of(tmp_path)}"]


def test_pages_are_rare_and_a_short_run_has_none(tmp_path: Path) -> None:
    assert Watched(tmp_path).go(seconds=0.5) == []
    quick = Watched(tmp_path).go(samples=10_000, seconds=0.02)
    assert len(quick) <= 10_000 * 0.02 / PAUSE + 1
    assert Watched(tmp_path, costs=100).go() == [3], "a page that takes long is not written again and again"


def test_an_error_in_the_page_does_not_reach_the_run(tmp_path: Path) -> None:
    run = Watched(tmp_path, error=OSError)
    assert len(run.go()) == 10
    assert run.early.last() == page_of(tmp_path)


def test_a_run_that_was_stopped_early_has_no_page(tmp_path: Path) -> None:
    run = Watched(tmp_path)
    assert run.early.last() is None
    run.early.planned(10, 0, tmp_path, [])
    assert run.early.last() is None
    assert not run.written


@pytest.mark.slow
def test_the_page_of_an_unfinished_run_is_written_by_another_process(tmp_path: Path) -> None:
    described = runs.manifest([runs.strategy("greedy"), runs.strategy("beam:width=2")], [runs.task("math")])
    runs.write(tmp_path, described, [runs.record("math", "1", "greedy", [runs.turn([1, 1], [0.5, 0.5])], score=1.0)])
    early_page.write_page(tmp_path)
    assert "greedy" in page_of(tmp_path).read_text(encoding="utf-8")
