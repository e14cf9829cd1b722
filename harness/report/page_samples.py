"""The samples of a page: texts, scores and steps of each answer, compressed so that all of them fit."""

import base64
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from harness.measure.judged import records
from harness.measure.raw import has_text_only
from harness.measure.summary import run_labels
from harness.plugins.task_names import task_names
from harness.report import plots, tables
from harness.report.detail import Contents
from harness.report.story import story
from harness.store.folder import Store
from harness.store.schema import Record, StepTree, Turn

SHOWN = 5000  # maximum number of samples in the page; of longer reports, the first examples of each cell


def samples_of(stores: Sequence[Store], contents: Contents) -> dict[str, Any]:
    """Return the samples of each cell of the summary, its baseline's cell, expected answers, and each text once."""
    summary = contents.summary
    several, texts, looks = "run" in summary, _Texts(), plots.families(summary)
    rows, names = summary.to_dict("records"), task_names(summary["task"].unique())
    index = {(row.get("run", ""), row["task"], row["strategy"]): number for number, row in enumerate(rows)}
    cells: list[dict[str, Any]] = [
        {"task": row["task"], "label": label, "baseline": None, "samples": [], "total": row["samples"] + row["failed"],
         "metric": row["quality_metric"], "colour": looks[row["family"]][0], "search": row["family"] == "search"}
        for label, row in zip(tables.row_labels(summary), rows, strict=True)
    ]
    limit, expected = max(1, SHOWN // max(1, len(cells))), dict[str, dict[str, int]]()
    for store, label, keys in zip(stores, run_labels(stores), contents.keys, strict=True):
        run, known = label if several else "", store.expected()
        for (cell_run, task, _), number in index.items():
            if cell_run == run:
                cells[number]["baseline"] = index.get((run, task, store.manifest.baseline))
        trees = {one.key: one.turns for one in store.trees()}
        for record in records(store, first_examples(store, keys, cells, limit)):
            cell = cells[index[run, record.task, record.strategy]]
            cell["samples"].append(_sample(record, texts, cell["search"], trees.get(record.key, [])))
            if text := known.get((record.task, record.example)):
                expected.setdefault(names[record.task], {})[record.example] = texts.number(text)
    return {"texts": list(texts.known), "expected": expected,
            "cells": [cell | {"task": names[cell["task"]]} for cell in cells]}


def compressed(data: Mapping[str, Any]) -> str:
    """Return data as JSON, compressed by gzip and written in base64, which no text can escape from."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), mtime=0)).decode()


def first_examples(store: Store, keys: pd.DataFrame, cells: Sequence[Mapping[str, Any]], limit: int) -> set[int]:
    """Return the record numbers of the first examples of each task, so that no cell has more than `limit` samples.

    At least one example of each task is included.
    """
    largest = {task.spec: max(cell["total"] for cell in cells if cell["task"] == task.spec)
               for task in store.manifest.tasks}
    allowed = {task.spec: max(1, limit * task.examples // max(1, largest[task.spec])) for task in store.manifest.tasks}
    examples: dict[str, dict[str, int]] = {task: {} for task in allowed}
    return {number for number, (task, example) in enumerate(zip(keys["task"], keys["example"], strict=True))
            if examples[task].setdefault(example, len(examples[task])) < allowed[task]}


class _Texts:
    """Numbers texts, so that each is written once."""

    def __init__(self) -> None:
        self.known = dict[str, int]()

    def number(self, text: str) -> int:
        return self.known.setdefault(text, len(self.known))


def _sample(record: Record, texts: _Texts, search: bool, trees: Sequence[Sequence[StepTree]]) -> dict[str, Any]:
    return {
        "example": record.example, "sample": record.sample, "repeat": record.repeat, "error": record.error,
        "reason": record.reason,
        "scores": {name: value if math.isfinite(value) else None for name, value in record.scores.items()},
        "turns": [_turn(turn, texts, search, trees[number] if number < len(trees) else ())
                  for number, turn in enumerate(record.turns)],
    }


def _turn(turn: Turn, texts: _Texts, search: bool, trees: Sequence[StepTree]) -> dict[str, Any]:
    """Return an answer: its whole text, of which the first `end` characters count, or only the text that counts."""
    begins = turn.raw.startswith(turn.text)
    seconds = sum(turn.steps.seconds)
    drawn = {tree.step: [[texts.number(text) for text in tree.texts], tree.parents, tree.path] for tree in trees}
    return {"prompt": texts.number(turn.prompt), "text": texts.number(turn.raw if begins else turn.text),
            "end": len(turn.text), "stop": turn.stop, "story": story(turn, search) if begins else {},
            **({"trees": drawn} if drawn else {}),
            "tokens": None if has_text_only(turn) else sum(turn.steps.tokens),
            "seconds": round(seconds, 6) if math.isfinite(seconds) else None}
