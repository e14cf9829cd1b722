"""Snapshots of runs, small enough to commit: counts, token hashes, scores and times that `check` compares."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field, ValidationError

from harness.errors import UserError
from harness.measure.raw import COUNTS
from harness.measure.summary import samples
from harness.store.folder import Store
from harness.store.schema import Manifest, ModelEntry, StrategyEntry, TaskEntry
from harness.store.stored import Stored

SCHEMA = 1
SAMPLE = ["example", "sample", "repeat"]
EXACT = ("tokens", *COUNTS)
COLUMNS = [*SAMPLE, "status", "hash", "truncated", *EXACT, "decode_tokens", "decode_steps", "seconds", "quality"]
WHOLE = [name for name in COLUMNS if name in (*EXACT, "decode_tokens", "decode_steps")]


class About(Stored):
    """The part of a manifest that a snapshot keeps: what was run, and on which hardware."""

    schema_version: int = SCHEMA
    created: str
    baseline: str
    config: dict[str, Any]
    strategies: list[StrategyEntry]
    tasks: list[TaskEntry]
    model: ModelEntry
    draft: ModelEntry | None
    hardware: Any
    spared: dict[str, dict[str, int]] = Field(default_factory=dict)

    @classmethod
    def of(cls, manifest: Manifest) -> "About":
        """Return this part of a manifest, without paths of data."""
        tasks = [task.model_copy(update={"data": ""}) for task in manifest.tasks]
        return cls(created=manifest.created, baseline=manifest.baseline, config=manifest.config,
                   strategies=manifest.strategies, tasks=tasks, model=manifest.model, draft=manifest.draft,
                   hardware=manifest.environment.get("hardware"), spared=manifest.spared)


class Cell(Stored):
    """The samples of one strategy on one task, each as a list in the order of `COLUMNS`."""

    task: str
    strategy: str
    samples: list[list[str | bool | int | float | None]]


class File(Stored):
    """The file format of a snapshot."""

    about: About
    columns: list[str]
    cells: list[Cell]


@dataclass(frozen=True)
class Snapshot:
    """A run to check: its description, and a frame with `COLUMNS` for each (task, strategy) with samples."""

    about: About
    cells: dict[tuple[str, str], pd.DataFrame]

    @classmethod
    def of(cls, store: Store) -> "Snapshot":
        """Return the snapshot of a run on disk."""
        frame = samples(store)
        ids = [row if isinstance(row, np.ndarray) else np.array([], dtype=np.int64) for row in frame["ids"]]
        frame = frame.assign(
            hash=[hashlib.sha256(row.astype("<i8").tobytes()).hexdigest()[:12] for row in ids],
            truncated=frame["truncated"].eq(True), quality=np.nan)
        for task in store.manifest.tasks:
            if (score := f"score_{task.headline}") in frame:
                rows = frame["task"] == task.spec
                frame.loc[rows, "quality"] = frame.loc[rows, score].astype(float)
        return cls(About.of(store.manifest), {
            (str(task), str(strategy)): cell[COLUMNS].reset_index(drop=True)
            for (task, strategy), cell in frame.groupby(["task", "strategy"], sort=False)})

    @classmethod
    def open(cls, path: Path) -> "Snapshot":
        """Read a committed snapshot, or make one of a run's folder; raises `UserError` if it is neither."""
        if path.is_dir():
            return cls.of(Store.open(path))
        try:
            file = File.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"There is no baseline {path}; write one with `decodebench check DIR --write {path}`."
                            ) from None
        except (ValidationError, UnicodeDecodeError):
            raise UserError(f"{path} is not a baseline of this version of decodebench; write it again with "
                            f"`decodebench check DIR --write {path}`.") from None
        if file.columns != COLUMNS:
            raise UserError(f"{path} was written by another version of decodebench; write it again with "
                            f"`decodebench check DIR --write {path}`.")
        numbers = dict.fromkeys([*WHOLE, "seconds", "quality"], float)
        return cls(file.about, {(cell.task, cell.strategy): pd.DataFrame(cell.samples, columns=COLUMNS).astype(numbers)
                                 for cell in file.cells})

    def text(self) -> str:
        """Return the file to commit, one line per sample so that diffs are small."""
        head = f'{{"about": {self.about.model_dump_json(indent=1)},\n"columns": {json.dumps(COLUMNS)},\n"cells": ['
        cells = []
        for (task, strategy), frame in self.cells.items():
            frame = frame.sort_values(SAMPLE)
            rows = ",\n".join(json.dumps([_plain(name, value) for name, value in zip(COLUMNS, row, strict=True)])
                              for row in zip(*(frame[name] for name in COLUMNS), strict=True))
            cells.append(f'{{"task": {json.dumps(task)}, "strategy": {json.dumps(strategy)}, "samples": [\n{rows}]}}')
        return head + ",\n".join(cells) + "]}\n"

    def cell(self, task: str, strategy: str) -> pd.DataFrame:
        """Return the samples of a cell, none if it was not run."""
        return self.cells.get((task, strategy), pd.DataFrame(columns=COLUMNS))

    def samples_due(self) -> dict[tuple[str, str], int]:
        """Return the expected number of samples of each (task, strategy) that can run."""
        per_example = int(self.about.config.get("samples", 1)) * int(self.about.config.get("repeats", 1))
        return {(task.spec, strategy.spec):
                task.examples * per_example - self.about.spared.get(task.spec, {}).get(strategy.spec, 0)
                for task in self.about.tasks for strategy in self.about.strategies if not strategy.unsupported}


def _plain(name: str, value: Any) -> str | bool | int | float | None:
    """Convert a value to JSON: integers, other numbers to six digits, and null for NaN."""
    if isinstance(value, str):
        return value
    if value != value:
        return None
    if name == "truncated":
        return bool(value)
    return int(value) if name in (*WHOLE, "sample", "repeat") else float(f"{value:.6g}")


def difference(run: About, baseline: About) -> str:
    """Return the first reason why two snapshots cannot be compared, or an empty string if they can be.

    Settings that only one of them has are ignored, and so is the hardware, because counts do not depend on it.
    """
    for name in ("model", "draft"):
        now, before = getattr(run, name), getattr(baseline, name)
        if _comparable(now, before) != _comparable(before, now):
            return f"the {name} is {_model(now)}, not {_model(before)}"
    if run.baseline != baseline.baseline:
        return f"the baseline strategy is {run.baseline}, not {baseline.baseline}"
    for key in sorted(run.config.keys() & baseline.config.keys() - {"limit"}):  # the task comparison below covers it
        if run.config[key] != baseline.config[key]:
            return f"'{key}' is {run.config[key]}, not {baseline.config[key]}"
    known = {task.spec: task for task in run.tasks}
    for task in baseline.tasks:
        if task.spec in known and (words := _task(known[task.spec], task)):
            return f"{task.spec} {words}"
    return ""


def _task(now: TaskEntry, before: TaskEntry) -> str:
    if now.version != before.version:
        return f"has version {now.version}, not {before.version}"
    if now.examples != before.examples:
        return f"has {now.examples} examples, not {before.examples}"
    if now.data_hash != before.data_hash:
        return "has different examples"
    if now.max_new_tokens != before.max_new_tokens:
        return f"stops at {now.max_new_tokens} tokens, not {before.max_new_tokens}"
    return ""


def _comparable(entry: ModelEntry | None, other: ModelEntry | None) -> ModelEntry | None:
    """Return what identifies a model: older baselines have no sizes of its parts, and some no tokenizer."""
    if entry is None:
        return None
    known = other is None or other.tokenizer
    return entry.model_copy(update={"sizes": None} if known else {"sizes": None, "tokenizer": ""})


def _model(entry: ModelEntry | None) -> str:
    if entry is None:
        return "none"
    text = f", tokenizer {entry.tokenizer[:12]}" if entry.tokenizer else ""
    return f"{entry.name} ({entry.dtype}, {entry.fingerprint[:12]}{text})"
