"""Progress of a run on stderr: a bar on a terminal, otherwise plain lines at intervals."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from harness.store.schema import Record

WORTH_TELLING = 60  # seconds to go from which the estimate is printed
LONG = 600          # seconds to go from which a run whose size was not given asks whether to go on


@contextmanager
def watching(ask: bool = False, quiet: bool = False) -> Iterator["Lines"]:
    """Yield a watcher that prints the progress of one run, or nothing if `quiet`.

    If `ask`, a long run asks at a terminal whether to go on.
    """
    console, ask = Console(stderr=True, quiet=quiet), ask and not quiet and sys.stdin.isatty()
    if quiet or not console.is_terminal:
        yield Lines(console, ask=ask)
        return
    bar = Bar(console, ask=ask)
    with bar.progress:
        yield bar


class Lines:
    """Print a line for every tenth of the run, but at most one per ten seconds and at least one per minute.

    After the first block, in which every strategy has decoded the same examples, the time to go is estimated.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic, ask: bool = False) -> None:
        self.console, self.clock, self.ask = console, clock, ask
        self.blocks = set[int]()
        self.total = self.done = self.resumed = self.failed = self.tokens = self.shown = 0
        self.shown_at = self.seconds = self.last = 0.0
        self.label, self.workers = "", 1

    def planned(self, total: int, done: int, folder: Path, warnings: Sequence[str]) -> None:
        """Print the number of samples, of those already done, the folder and the warnings."""
        self.total, self.done, self.resumed, self.shown = total, done, done, done
        self.shown_at = self.clock()
        self.say(f"{total} samples{f' ({done} already done)' if done else ''} in {folder}")
        for warning in warnings:
            self.say(f"Note: {warning}")

    def started(self, label: str) -> None:
        """Note the label of the cell that starts now."""
        self.label = label

    def finished(self, record: Record) -> None:
        """Count a sample that was written to disk."""
        tokens, self.done = sum(len(turn.tokens) for turn in record.turns), self.done + 1
        self.failed += record.status == "failed"
        self.tokens, self.seconds = self.tokens + tokens, self.seconds + record.seconds
        self.last = tokens / record.seconds if record.seconds else 0.0
        if record.block not in self.blocks:
            self.blocks.add(record.block)
            if len(self.blocks) == 2:
                self.estimate()
        self.show()

    def left(self) -> float:
        """Return the seconds to go, at the mean time of the samples so far; those of a batch share its time.

        Several `workers` share what is left.
        """
        return self.seconds / (self.done - self.resumed) * (self.total - self.done) / self.workers

    def estimate(self) -> None:
        """Print the time to go; a long run asks whether to go on, and `KeyboardInterrupt` stops it."""
        left = self.left()
        if left >= WORTH_TELLING:
            self.say(f"About {left / 60:.0f} minutes to go, judging by the first block; --limit makes a run shorter.")
        if self.ask and left >= LONG and not _confirmed():
            raise KeyboardInterrupt

    def show(self) -> None:
        """Print a line if one is due."""
        now = self.clock()
        waited, tenths = now - self.shown_at, 10 * (self.done - self.shown) / self.total
        if waited >= 60 or (waited >= 10 and tenths >= 1) or self.done == self.total:
            self.say(f"{self.done}/{self.total} · {self.news()} · {self.left():.0f} s left")
            self.shown, self.shown_at = self.done, now

    def news(self) -> str:
        """Return the speed of the last sample and the mean (tokens per second), failed samples, and the cell."""
        mean = self.tokens / self.seconds if self.seconds else 0.0
        failed = f" · {self.failed} failed" if self.failed else ""
        return f"{self.last:.0f} tok/s (mean {mean:.0f}){failed} · {self.label}"

    def say(self, line: str) -> None:
        """Print one line without markup."""
        self.console.print(line, soft_wrap=True, markup=False, highlight=False)


def _confirmed() -> bool:
    """Ask whether to go on; Ctrl-C is a no."""
    try:
        return typer.confirm("Go on?", default=True, err=True)
    except typer.Abort:
        return False


class Bar(Lines):
    """Redraw a progress bar after every sample."""

    def __init__(self, console: Console, ask: bool = False) -> None:
        super().__init__(console, ask=ask)
        self.progress = _TwoLines(
            BarColumn(None), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("left"),
            console=console, expand=True, transient=True,
            auto_refresh=False)  # a thread that draws would disturb what is being timed

    def planned(self, total: int, done: int, folder: Path, warnings: Sequence[str]) -> None:
        """Print what `Lines.planned` does, and start the bar."""
        super().planned(total, done, folder, warnings)
        self.task = self.progress.add_task("", total=total, completed=done)

    def estimate(self) -> None:
        """Print what `Lines.estimate` does, with the bar out of the way."""
        self.progress.stop()
        super().estimate()
        self.progress.start()

    def show(self) -> None:
        """Redraw the bar."""
        self.progress.update(self.task, completed=self.done, description=self.news(), refresh=True)


class _TwoLines(Progress):
    def get_renderables(self) -> Iterable[RenderableType]:
        yield from (Text(task.description, no_wrap=True, overflow="ellipsis") for task in self.tasks)
        yield self.make_tasks_table(self.tasks)
