"""The samples of a page: an index with a row for each of them, and their answers in blocks."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from harness.measure.acceptance import drafts
from harness.measure.judged import records
from harness.measure.raw import has_text_only
from harness.measure.summary import cells_of, manifests_of
from harness.plugins.task_names import task_names
from harness.report import tables
from harness.report.answers import Answer, Beside, Blocks
from harness.report.families import look
from harness.store.folder import Store
from harness.store.schema import Record, Sample

Samples = tuple[dict[str, Any], dict[str, str]]  # the index, and the blocks in the page
POSITIONS = 12  # of a draft


@dataclass
class Rows:
    """The samples of a cell by column: example, sample, repeat, score, and tokens per second, None if unknown.

    `drafts` counts the steps by the lengths of their draft and of its accepted part. `order` has the first answer with
    masks: its example, and for each token the forward that filled its place.
    """

    keys: list[Answer] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)
    rates: list[float | None] = field(default_factory=list)
    failed: set[Answer] = field(default_factory=set)
    differing: set[Answer] = field(default_factory=set)
    drafts: Counter[tuple[int, int]] = field(default_factory=Counter)
    order: dict[str, Any] = field(default_factory=dict)

    def add(self, cell: int, record: Record, metric: str) -> None:
        """Add the row of a sample."""
        key = (cell, record.example, record.sample, record.repeat)
        seconds = sum(sum(turn.steps.seconds) for turn in record.turns)
        tokens = 0 if any(map(has_text_only, record.turns)) else sum(sum(turn.steps.tokens) for turn in record.turns)
        self.keys.append(key)
        self.scores.append(_short(record.scores.get(metric, math.nan)))
        self.rates.append(_short(tokens / seconds) if tokens > 0 and seconds > 0 else None)
        if record.error is not None:
            self.failed.add(key)
        for turn in record.turns:
            if turn.filled and not self.order:
                self.order = {"example": record.example, "filled": turn.filled}
            if any(turn.steps.drafted):
                self.drafts.update(zip(turn.steps.drafted, turn.steps.accepted, strict=False))

    def columns(self, places: dict[str, int]) -> dict[str, Any]:
        """Return the columns in the order of `places`, which has the place of each example; a set by its rows."""
        order = sorted(range(len(self.keys)), key=lambda row: (places[self.keys[row][1]], *self.keys[row][2:]))
        keys = [self.keys[row] for row in order]
        numbers = {"sample": [key[2] for key in keys], "repeat": [key[3] for key in keys]}
        return {"examples": [places[key[1]] for key in keys],
                **{name: column for name, column in numbers.items() if any(column)},
                "scores": [self.scores[row] for row in order], "rates": [self.rates[row] for row in order],
                "failed": [row for row, key in enumerate(keys) if key in self.failed],
                "differing": [row for row, key in enumerate(keys) if key in self.differing]}

    def positions(self) -> list[list[int]]:
        """Return for k = 1, 2, … the steps with at least k drafted tokens, and those with the first k accepted.

        There are at most `POSITIONS`.
        """
        steps = [(drafted, min(drafted, accepted), count) for (drafted, accepted), count in self.drafts.items()]
        deepest = max((accepted for _, accepted, _ in steps), default=0)
        return [[sum(count for drafted, _, count in steps if drafted >= k),
                 sum(count for _, accepted, count in steps if accepted >= k)]
                for k in range(1, min(deepest, POSITIONS) + 1)]


def samples_of(stores: Sequence[Store], lengths: Sequence[int], beside: Beside | None = None) -> Samples:
    """Return the index of the first samples of each run, as many as `lengths` says, and the blocks in the page by name.

    Blocks are compressed; those beyond `EMBEDDED` letters are given to `beside`, if there is one.
    """
    table = cells_of(stores)
    cells, names = _cells(stores, table), task_names(table["task"].unique())
    numbers = {(row.get("run", ""), row["task"], row["strategy"]): number
               for number, row in enumerate(table.to_dict("records"))}
    counts = _counts(stores, lengths)
    places: dict[str, dict[str, int]] = {}
    for task, example in counts:
        places.setdefault(task, {})[example] = len(places.get(task, {}))
    blocks = Blocks(counts, beside)
    rows = [Rows() for _ in cells]
    baselines = {number: cell["baseline"] for number, cell in enumerate(cells)}
    for store, run, length in zip(stores, manifests_of(stores), lengths, strict=True):
        known, trees = store.expected(), {one.key: one.turns for one in store.trees()}
        for record in records(store, range(length)):
            number = numbers[run, record.task, record.strategy]
            rows[number].add(number, record, cells[number]["metric"])
            block = blocks.of(record)
            block.add(number, record, cells[number]["drafts"], trees.get(record.key, []))
            if text := known.get((record.task, record.example)):
                block.expected[record.example] = block.texts.number(text)
            if not block.left:
                for answer in block.differing(baselines):
                    rows[answer[0]].differing.add(answer)
                blocks.close(record)
    blocks.finish()
    index = {"tasks": {name: {"examples": list(places.get(task, {})), "blocks": blocks.names(task)}
                       for task, name in names.items()},
             "cells": [cell | {"task": names[cell["task"]], "rows": one.columns(places.get(cell["task"], {})),
                               "positions": one.positions() if cell["drafts"] else [], "order": one.order}
                       for cell, one in zip(cells, rows, strict=True)]}
    return index, blocks.embedded


def _cells(stores: Sequence[Store], table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a cell for each row of `cells_of`, with the number of its baseline's cell."""
    manifests = manifests_of(stores)
    baselines = {(run, manifest.baseline) for run, manifest in manifests.items()}
    drafting = {(run, entry.spec) for run, manifest in manifests.items() for entry in manifest.strategies
                if drafts(entry)}
    rows = [(str(row.get("run", "")), row) for row in table.to_dict("records")]
    found = {(run, row["task"]): number
             for number, (run, row) in enumerate(rows) if (run, row["strategy"]) in baselines}
    return [{"task": row["task"], "label": label, "metric": row["quality_metric"], "colour": look(row["family"]).colour,
             "drafts": (run, row["strategy"]) in drafting, "baseline": found.get((run, row["task"]))}
            for label, (run, row) in zip(tables.row_labels(table), rows, strict=True)]


def _counts(stores: Sequence[Store], lengths: Sequence[int]) -> dict[tuple[str, str], int]:
    """Return the number of samples of each (task, example): tasks in order, examples by name, numbers in it by value.
    """
    counts = Counter[tuple[str, str]]()
    for store, length in zip(stores, lengths, strict=True):
        counts.update((one.task, one.example) for one in store.parts_of_records(Sample, range(length)))
    tasks = {task: place for place, task in enumerate(dict.fromkeys(task for task, _ in counts))}
    return dict(sorted(counts.items(), key=lambda one: (tasks[one[0][0]], _natural(one[0][1]))))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None
