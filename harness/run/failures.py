"""Failed samples: the error text of their records, and the end of a run when the same failure repeats."""

import re
import sysconfig
import traceback
from pathlib import Path

from harness.errors import Unsupported, UserError
from harness.store.schema import Record

REPEATS = 5  # equal failures in a row that end the run
LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class RunStopped(UserError):
    """The run ends because the same failure repeats, and can be resumed; `details` is the first traceback."""

    code = 3

    def __init__(self, sentence: str, first: str) -> None:
        super().__init__(sentence)
        self.details = first


class Failures:
    """Counts equal failures in a row, per strategy and over all, and keeps the first traceback.

    With `tolerant`, one strategy may keep failing: in a sweep, failure is a result.
    """

    def __init__(self, tolerant: bool = False) -> None:
        self.first, self._row, self.tolerant = "", dict[str, tuple[str, int]](), tolerant
        self.stop: str | None = None

    def note(self, record: Record, error: Exception | None) -> None:
        """Count one record and the `error` that its sample raised; sets `stop` to a sentence once the run must end."""
        for strategy in ("",) if self.tolerant else (record.strategy, ""):
            if error is None:
                self._row.pop(strategy, None)
                continue
            kind = failure_kind(error)
            before, times = self._row.get(strategy, (kind, 0))
            self._row[strategy] = kind, times + 1 if kind == before else 1
            if kind and self._row[strategy][1] >= REPEATS and self.stop is None:
                who = record.strategy if strategy else "Every strategy"
                self.stop = (f"{who} failed {REPEATS} times in a row in the same way ({record.error}); finished "
                             "samples are kept, so fix the cause and resume with the same command.")
        if error is not None and not self.first and failure_kind(error):
            self.first = "".join(traceback.format_exception(error)).rstrip()

    def check(self) -> None:
        """Raise `RunStopped` once the same failure has repeated."""
        if self.stop:
            raise RunStopped(self.stop, self.first)


def error_text(error: Exception) -> str:
    """Return the error text of a record: type and message, and for a bug its file and line."""
    place = "" if isinstance(error, UserError | Unsupported) else _place(error)
    return f"{type(error).__name__}: {error}{f' ({place})' if place else ''}"


def failure_kind(error: Exception) -> str:
    """Return the key of equal failures: type, file and line, message without numbers; empty for refused input."""
    if isinstance(error, UserError | Unsupported):
        return ""
    return f"{type(error).__name__} {_place(error)} {re.sub(r'[0-9]+', '#', str(error))}"


def _place(error: Exception) -> str:
    """Return file and line of the innermost frame outside libraries; empty for an error without a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(LIBRARIES)]
    last = next(reversed(own or list(frames)), None)
    return f"{Path(last.filename).name}, line {last.lineno}" if last else ""
