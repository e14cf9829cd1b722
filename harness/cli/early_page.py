"""The page of a run that is not finished: written between samples by another process, and when the run is stopped."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from harness.cli.progress import WORTH_TELLING, Lines
from harness.store.schema import Record

PAUSE = 60    # seconds between two pages at least
SHARE = 0.05  # of a run's time that may go into pages


class EarlyPage:
    """A watcher that tells `shown` everything, and has the page written while no sample is being decoded.

    The page comes after the first block, and again each time a tenth more is done, at most once per `PAUSE`. A run that
    is over sooner has its page at the end only. No error in `write` reaches the run.
    """

    def __init__(self, shown: Lines, write: Callable[[Path], None] | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.shown, self.write, self.clock = shown, write or write_page, clock
        self.folder: Path | None = None
        self.page: Path | None = None
        self.next_at, self.next_done = float("inf"), 0.0

    def planned(self, total: int, done: int, folder: Path, warnings: Sequence[str]) -> None:
        """Note the folder of the run."""
        self.folder, self.next_at = folder, self.clock()
        self.shown.planned(total, done, folder, warnings)

    def started(self, label: str) -> None:
        """Write the page if it is due, before the next samples are decoded."""
        self.shown.started(label)
        if self.folder and len(self.shown.blocks) > 1 and self._due():
            self._refresh(self.folder)

    def finished(self, record: Record) -> None:
        """Count a sample that was written to disk."""
        self.shown.finished(record)

    def _due(self) -> bool:
        lines = self.shown
        return lines.done >= self.next_done and self.clock() >= self.next_at and lines.left() >= WORTH_TELLING

    def _refresh(self, folder: Path) -> None:
        began = self.clock()
        with suppress(Exception):  # whatever goes wrong, the samples are on disk and the page comes at the end
            self.write(folder)
        now = self.clock()
        self.next_at = now + max(PAUSE, (now - began) / SHARE)
        self.next_done = self.shown.done + self.shown.total / 10
        if self.page is None and (page := page_of(folder)).exists():
            self.page = page
            self.shown.say(f"Page so far, written again from time to time: {page}")

    def last(self) -> Path | None:
        """Write the page of the finished samples of a stopped run and return its path; None if there are none."""
        if self.folder is None or not self.shown.done:
            return None
        page = page_of(self.folder)
        with suppress(Exception):
            self.write(self.folder)
        return page if page.exists() else None


def page_of(folder: Path) -> Path:
    """Return the path of the page of a run."""
    return folder / "report" / "index.html"


def write_page(folder: Path) -> None:
    """Write the report of a run in a process of its own, so that the run's memory and libraries stay as they are."""
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-m", "harness.cli", "report", str(folder), "-o", str(page_of(folder).parent)]
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, stdin=subprocess.DEVNULL, timeout=600,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, start_new_session=True)
