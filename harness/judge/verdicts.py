"""Verdicts on disk: the append-only file `judge/verdicts.jsonl` in a run folder."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from harness.store import jsonl
from harness.store.files import cannot_write
from harness.store.stored import Stored

Mode = Literal["single", "pairwise"]
MODES: tuple[Mode, ...] = get_args(Mode)
Winner = Literal["strategy", "baseline", "tie"]
Slot = tuple[str, str, str, str, int, int, int, str, bool, int]

# The published patterns of lm-sys/FastChat, fastchat/llm_judge/common.py.
RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
RATING_BACKUP = re.compile(r"\[(\d+\.?\d*)\]")
LETTERS = ("A", "B", "C")


class Verdict(Stored):
    """A judge's verdict on one turn of one answer, or the error (`status` failed).

    `judge`, `where` (an endpoint, or the weights of a local model) and `settings` identify the judge. `key` is the hash
    of them, the whole prompt and `again`, the index of the repetition. In `pairwise` mode the answer is compared with
    that of the strategy `against`, and is shown second if `swapped`. An `unparsed` text contains no verdict. A `reused`
    verdict needed no request: another answer had the same prompt, or both answers were equal (a tie). `tokens_in` and
    `tokens_out` are the endpoint's counts, `tries` the number of requests.
    """

    judge: str
    where: str
    settings: dict[str, Any]
    key: str
    mode: Mode
    task: str
    example: str
    strategy: str
    sample: int
    repeat: int
    turn: int
    category: str = ""
    against: str = ""
    swapped: bool = False
    again: int = 0
    status: Literal["ok", "unparsed", "failed"]
    rating: float | None = None
    winner: Winner | None = None
    text: str = ""
    error: str | None = None
    reused: bool = False
    tries: int = 0
    tokens_in: int = Field(default=0, ge=0)
    tokens_out: int = Field(default=0, ge=0)

    @property
    def slot(self) -> Slot:
        """Return the identity of the judged answer or pair, independent of the judge."""
        return (self.mode, self.task, self.example, self.strategy, self.sample, self.repeat, self.turn, self.against,
                self.swapped, self.again)

    @property
    def by(self) -> tuple[str, str, str]:
        """Return the identity of the judge: model, endpoint and settings."""
        return (self.judge, self.where, json.dumps(self.settings, sort_keys=True))


def file(folder: Path) -> Path:
    """Return the path of the verdicts of the run in `folder`."""
    return folder / "judge" / "verdicts.jsonl"


def load(folder: Path) -> list[Verdict]:
    """Load all verdicts of a run in the order of the file; a torn last line is skipped."""
    return list(jsonl.read(file(folder), Verdict, "a verdict"))


def begin(folder: Path) -> None:
    """Prepare the file for appending; raises `UserError` if it cannot be written."""
    path = file(folder)
    try:
        path.parent.mkdir(exist_ok=True)
        path.touch()
        jsonl.mend(path)
    except OSError as error:
        raise cannot_write(path, error) from None


def append(folder: Path, verdicts: Iterable[Verdict]) -> None:
    """Append verdicts, and flush them to disk before returning."""
    jsonl.append(file(folder), verdicts)


def latest(verdicts: Iterable[Verdict], mode: Mode) -> list[Verdict]:
    """Return the newest verdict of each slot in one mode, for each task only those of the judge used last."""
    of_mode = [one for one in verdicts if one.mode == mode]
    last = {one.task: one.by for one in of_mode}
    return list({one.slot: one for one in of_mode if one.by == last[one.task]}.values())


def rating(text: str) -> float | None:
    """Parse the first number in double brackets, else in single ones, else None (FastChat, `run_judge_single`)."""
    match = RATING.search(text) or RATING_BACKUP.search(text)
    value = float(match[1]) if match else float("inf")
    return value if value < float("inf") else None


def winner(text: str, swapped: bool) -> Winner | None:
    """Parse the winner: `[[A]]` takes precedence over `[[B]]`, and that over `[[C]]`, a tie (`run_judge_pair`)."""
    letter = next((one for one in LETTERS if f"[[{one}]]" in text), None)
    first, second = ("baseline", "strategy") if swapped else ("strategy", "baseline")
    wins: dict[str, Winner] = {"A": first, "B": second, "C": "tie"}  # type: ignore[dict-item]
    return wins[letter] if letter else None
