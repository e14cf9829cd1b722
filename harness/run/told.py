"""A watcher of runs inside of a study, which tells the user how far they are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.store.schema import Record


@dataclass
class Told:
    """Says how many answers of `what` are known, and what is being decoded."""

    what: str
    say: Callable[[str], None]
    done: int = 0
    total: int = 0

    def planned(self, total: int, done: int, folder: Path, warnings: Sequence[str]) -> None:
        """Note how much there is."""
        self.done, self.total = done, total

    def started(self, label: str) -> None:
        """Say what is being decoded."""
        self.say(f"{self.what}: {self.done} of {self.total} answers · {label}")

    def finished(self, record: Record) -> None:
        """Count the sample."""
        self.done += 1
