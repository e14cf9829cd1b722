"""What the pictures of a task show besides its summary: speed-ups by batch size, and loops and repetition."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.measure.texts import REFERENCE
from harness.report.detail import BREAK_EVEN, Contents
from harness.report.texts import TEXTS


@dataclass(frozen=True)
class Line:
    """The speed-up of a strategy at each batch size, with the ends of its 95 % interval, NaN where unknown.

    `crossing` is the batch size at which the speed-up is 1, NaN if it never is.
    """

    label: str
    strategy: str
    family: str
    points: Sequence[tuple[int, float, float, float]]
    crossing: float


@dataclass(frozen=True)
class Bar:
    """The shares of a strategy's texts that end in a loop, and of repeated 4-grams in them, NaN if unknown."""

    label: str
    family: str
    loops: float
    rep_4: float


def lines(contents: Contents, task: str) -> list[Line]:
    """Return a line for each strategy of a task, by rising batch size; empty if all runs have the same one."""
    family, found = _families(contents), []
    for section in contents.sections:
        if section.kind.name == BREAK_EVEN:
            keys = [column.key for column in section.kind.columns if column.key != "crossing"]
            for row in section.rows[section.rows["task"] == task].to_dict("records"):
                points = [(int(key.rpartition("_")[2]), row[key], row[f"{key}_low"], row[f"{key}_high"])
                          for key in keys if not math.isnan(row[key])]
                found.append(Line(row["label"], row["strategy"], family[row["strategy"]], points, row["crossing"]))
    return found


def bars(contents: Contents, task: str) -> list[Bar]:
    """Return a bar for each strategy of a task and for the references, most loops first; empty if no strategy loops."""
    family = _families(contents)
    found = [Bar(row["label"], family.get(row["strategy"], REFERENCE), row["loops"], row["rep_4"])
             for section in contents.sections if section.kind.name == TEXTS.name
             for row in section.rows[section.rows["task"] == task].to_dict("records") if not math.isnan(row["loops"])]
    if not any(bar.loops > 0 for bar in found if bar.family != REFERENCE):
        return []
    return sorted(found, key=lambda bar: (-bar.loops, -bar.rep_4))


def _families(contents: Contents) -> dict[str, str]:
    return dict(zip(contents.summary["strategy"], contents.summary["family"], strict=True))
