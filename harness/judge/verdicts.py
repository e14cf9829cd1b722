"""Verdicts on disk: `judge/verdicts.jsonl` beside the records of a run, only ever appended to."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from harness.errors import UserError
from harness.store import jsonl
from harness.store.schema import Stored

Mode = Literal["single", "pairwise"]
MODES: tuple[Mode, ...] = get_args(Mode)
Winner = Literal["strategy", "baseline", "tie"]
Slot = tuple[str, str, str, str, int, int, int, str, bool, int]

# The published patterns of lm-sys/FastChat, fastchat/llm_judge/common.py.
RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
RATING_BACKUP = re.compile(r"\[(\d+\.?\d*)\]")
LETTERS = ("A", "B", "C")


class Verdict(Stored):
    """What a judge said of one turn of one answer, or why it said nothing (`status` failed).

    `judge`, `where` (an endpoint, or the weights of a local model) and `settings` say who judged; `key` is the hash of
    them, of the whole prompt and of `again`, the number of the judging. In `pairwise` mode the answer stands against
    that of the strategy `against`, and comes second where `swapped`. An `unparsed` text holds no verdict in the wanted
    form. A `reused` verdict cost no call: another answer had the same prompt, or both answers were the same (a tie).
    `tokens_in` and `tokens_out` are those that the endpoint counted, `tries` its calls.
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
        """What it is a verdict on, whoever judged."""
        return (self.mode, self.task, self.example, self.strategy, self.sample, self.repeat, self.turn, self.against,
                self.swapped, self.again)

    @property
    def by(self) -> tuple[str, str, str]:
        """Who judged, and how."""
        return (self.judge, self.where, json.dumps(self.settings, sort_keys=True))


def file(folder: Path) -> Path:
    """Where the verdicts on the run in `folder` lie."""
    return folder / "judge" / "verdicts.jsonl"


def load(folder: Path) -> list[Verdict]:
    """All verdicts on a run in the order in which they were given; a torn last line is skipped."""
    return list(jsonl.read(file(folder), Verdict, "a verdict"))


def begin(folder: Path) -> None:
    """Make the file ready to be appended to; raises `UserError` when it cannot be."""
    path = file(folder)
    try:
        path.parent.mkdir(exist_ok=True)
        path.touch()
        jsonl.mend(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); make it writable, or judge a copy.") from None


def append(folder: Path, verdicts: Iterable[Verdict]) -> None:
    """Write verdicts to the disk before returning."""
    jsonl.append(file(folder), verdicts)


def latest(verdicts: Iterable[Verdict], mode: Mode) -> list[Verdict]:
    """The verdicts of one mode, in each task those of the judge that was asked last, each slot's newest only."""
    of_mode = [one for one in verdicts if one.mode == mode]
    last = {one.task: one.by for one in of_mode}
    return list({one.slot: one for one in of_mode if one.by == last[one.task]}.values())


def rating(text: str) -> float | None:
    """The first number in double brackets, else the first in single ones, else None (FastChat, `run_judge_single`)."""
    found = RATING.search(text) or RATING_BACKUP.search(text)
    value = float(found[1]) if found else float("inf")
    return value if value < float("inf") else None


def winner(text: str, swapped: bool) -> Winner | None:
    """Who won: `[[A]]` counts before `[[B]]` and that before `[[C]]`, a tie (FastChat, `run_judge_pair`)."""
    letter = next((one for one in LETTERS if f"[[{one}]]" in text), None)
    first, second = ("baseline", "strategy") if swapped else ("strategy", "baseline")
    wins: dict[str, Winner] = {"A": first, "B": second, "C": "tie"}  # type: ignore[dict-item]
    return wins[letter] if letter else None
