"""Failed samples: what their records say, and when the same failure comes so often that the run must end."""

import re
import sysconfig
import traceback
from pathlib import Path

from harness.errors import Unsupported, UserError
from harness.store.schema import Record

REPEATS = 5  # equal failures in a row after which the next sample would fail, too
LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class RunStopped(UserError):
    """The same failure repeats: the run ends, and the same command resumes it; `details` is the first traceback."""

    code = 3

    def __init__(self, sentence: str, first: str) -> None:
        super().__init__(sentence)
        self.details = first


class Failures:
    """Counts equal failures in a row, of each strategy and of all together, and keeps the first traceback.

    With `tolerant` one strategy may go on failing: of a sweep that is a result.
    """

    def __init__(self, tolerant: bool = False) -> None:
        self.first, self._row, self._tolerant = "", dict[str, tuple[str, int]](), tolerant
        self.stop: str | None = None

    def note(self, record: Record, error: Exception | None) -> None:
        """Count one record; `error` is what its sample raised. `stop` is a sentence once the run must end."""
        for who in ("",) if self._tolerant else (record.strategy, ""):
            if error is None:
                self._row.pop(who, None)
                continue
            kind = failure_kind(error)
            before, times = self._row.get(who, (kind, 0))
            self._row[who] = kind, times + 1 if kind == before else 1
            if kind and self._row[who][1] >= REPEATS and self.stop is None:
                self.stop = (f"{record.strategy if who else 'Every strategy'} failed {REPEATS} times in a row in the "
                             f"same way ({record.error}); what was finished is kept, and the same command goes on "
                             "once the cause is mended.")
        if error is not None and not self.first and failure_kind(error):
            self.first = "".join(traceback.format_exception(error)).rstrip()

    def check(self) -> None:
        """Raise `RunStopped` once the same failure has repeated."""
        if self.stop:
            raise RunStopped(self.stop, self.first)


def error_text(error: Exception) -> str:
    """The error of a record: type and message, and for a bug the file and line that it comes from."""
    place = "" if isinstance(error, UserError | Unsupported) else _place(error)
    return f"{type(error).__name__}: {error}{f' ({place})' if place else ''}"


def failure_kind(error: Exception) -> str:
    """What equal failures have in common: type, place, and message without numbers; empty for input that is refused."""
    if isinstance(error, UserError | Unsupported):
        return ""
    return f"{type(error).__name__} {_place(error)} {re.sub(r'[0-9]+', '#', str(error))}"


def _place(error: Exception) -> str:
    """File and line of the innermost frame that is in no library; empty for an error that came from elsewhere."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(LIBRARIES)]
    last = next(reversed(own or list(frames)), None)
    return f"{Path(last.filename).name}, line {last.lineno}" if last else ""
