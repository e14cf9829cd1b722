"""A watcher of runs for tests."""

from collections.abc import Sequence
from pathlib import Path

from harness.store.schema import Record


class Quiet:
    """A watcher that records the finished samples and prints nothing."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.records: list[Record] = []
        self.stop_after, self.done = stop_after, 0

    def planned(self, total: int, done: int, folder: Path, warnings: Sequence[str]) -> None:
        self.total, self.done = total, done

    def started(self, label: str) -> None:
        self.label = label

    def finished(self, record: Record) -> None:
        self.records.append(record)
        if len(self.records) == self.stop_after:
            raise KeyboardInterrupt
