"""The report as one self-contained HTML page: tables, plots, and the samples of each cell."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from harness.measure.judged import records
from harness.measure.leaderboard import RULE, leaderboard
from harness.measure.raw import has_text_only
from harness.measure.summary import run_labels
from harness.plugins.task_names import task_names
from harness.report import plots, tables, texts
from harness.report.detail import Contents, collect
from harness.store.folder import Store
from harness.store.schema import Manifest, Record

TEMPLATES = Path(__file__).parent / "templates"
TITLES = {"pareto": "quality against speed-up", "speedup": "speed-up of each strategy"}  # for screen readers
SHOWN = 5000  # maximum number of samples in the page; of longer reports, the first examples of each cell


def render(stores: Sequence[Store], contents: Contents | None = None,
           figures: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """Return the page of one or several runs; `contents` and `figures`, SVG by task and kind, are made if missing."""
    contents = contents or collect(stores)
    summary, details = contents.summary, _details(stores, contents)
    figures = figures or {task: {kind: plots.svg(figure) for kind, figure in plots.of_task(summary, task).items()}
                          for task in summary["task"].unique()}
    return template("index.html.j2").render(
        css=css(),
        js=Markup((TEMPLATES / "report.js").read_text(encoding="utf-8")),
        runs=[_run(store.manifest, label) for store, label in zip(stores, run_labels(stores), strict=True)],
        totals={"samples": int((summary["samples"] + summary["failed"]).sum()), "failed": int(summary["failed"].sum())},
        verdict=contents.verdict,
        notes=[*tables.deciding_note(summary), *tables.notes(summary)],
        overview=_overview(stores, summary),
        tasks=[_task(stores, summary, task, number, figures[task]) | {"texts": _texts(contents.sections, task)}
               for number, task in enumerate(summary["task"].unique())],
        glossary=tables.all_columns(summary),
        text_glossary=[(section.kind, section.filled_columns(section.rows)) for section in contents.sections],
        data=Markup(_embedded(details)),
    )


@cache
def template(name: str) -> Template:
    """Return a page template, which escapes all inserted text."""
    return Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
                       undefined=StrictUndefined).get_template(name)


def css() -> Markup:
    """Return the style sheet of all pages."""
    return Markup((TEMPLATES / "report.css").read_text(encoding="utf-8"))


def _run(manifest: Manifest, label: str) -> dict[str, Any]:
    model = manifest.model
    details = [model.architecture, f"{model.parameters:,} parameters" if model.parameters else "", model.dtype]
    facts = {"model": f"{model.name} ({', '.join(filter(None, details)) or 'no details'})"}
    if manifest.draft:
        facts["draft model"] = f"{manifest.draft.name} ({manifest.draft.parameters:,} parameters)"
    facts |= {"baseline": manifest.baseline, "started": manifest.created, **_flat(manifest.environment)}
    names = task_names(task.spec for task in manifest.tasks)
    for task in manifest.tasks:
        facts[f"data of {names[task.spec]}"] = f"{task.data}, {task.examples} examples, {task.data_hash[:12]}"
    return {"label": label, "model": model.name, "facts": facts, "command": manifest.command,
            "warnings": manifest.warnings}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested settings to names and texts."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key} ")
        elif value not in (None, "", []):
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            flat[f"{prefix}{key}".replace("_", " ")] = text
    return flat


def _overview(stores: Sequence[Store], summary: pd.DataFrame) -> dict[str, Any]:
    """Return the leaderboard: one row per strategy with figures of all tasks, then quality and speed-up per task."""
    tasks = list(summary["task"].unique())
    baselines = {(label, store.manifest.baseline)[len(stores) == 1:]
                 for label, store in zip(run_labels(stores), stores, strict=True)}
    board, looks = leaderboard(summary, baselines), plots.families(summary)
    columns = [column for column in tables.LEADERBOARD if board[column.key].notna().any()]
    cells = {(row["task"], row.get("run"), row["strategy"]): row for _, row in summary.iterrows()}
    rows = []
    for label, (_, row) in zip(tables.row_labels(board), board.iterrows(), strict=True):
        figures = [_figure(column, row) for column in columns]
        for task in tasks:
            cell = cells.get((task, row.get("run"), row["strategy"]))  # another run may lack the task
            figures += [_figure(column, cell) for column in (tables.QUALITY, tables.SPEEDUP)]
        rows.append({**_identity(row, label, looks), "figures": figures})
    return {"tasks": list(task_names(tasks).values()), "rows": rows, "columns": columns, "rule": RULE}


def _task(stores: Sequence[Store], summary: pd.DataFrame, task: str, number: int,
          figures: Mapping[str, str]) -> dict[str, Any]:
    """Return the section of a task; a row's `cell` is its index in the summary."""
    rows, looks = summary.assign(label=tables.row_labels(summary))[summary["task"] == task], plots.families(summary)
    columns, name = tables.filled_columns(rows), task_names(summary["task"].unique())[task]
    manifests = dict(zip(run_labels(stores), (store.manifest for store in stores), strict=True))
    return {
        "name": name, "note": rows["quality_note"].iloc[0], "metric": rows["quality_metric"].iloc[0],
        "columns": columns,
        "rows": [{
            **_identity(row, row["label"], looks), "cell": index,
            "samples": int(row["samples"]), "failed": int(row["failed"]),
            "status": tables.status(row), "figures": [_figure(column, row) for column in columns],
            "command": _command(manifests[row["run"]] if "run" in row else stores[0].manifest, row),
        } for index, row in rows.iterrows()],
        "plots": [Markup(plots.inline(figure, f"t{number}p{i}", f"{name}: {TITLES[kind]}"))
                  for i, (kind, figure) in enumerate(figures.items())],
    }


def _texts(sections: Sequence[texts.Section], task: str) -> list[dict[str, Any]]:
    """Return the tables below the summary of a task."""
    shown = []
    for section in sections:
        of_task = section.rows[section.rows["task"] == task]
        for name, rows in section.groups(of_task):
            columns = section.filled_columns(rows)
            title = section.kind.title + name.removeprefix(task)
            shown.append({"title": title, "about": section.kind.about, "columns": columns,
                          "notes": section.notes,
                          "rows": [{"label": row["label"], "spec": row["strategy"],
                                    "figures": [_figure(column, row) for column in columns]}
                                   for _, row in rows.iterrows()]})
    return shown


def _identity(row: "pd.Series[Any]", label: str, looks: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    return {"label": label, "spec": row["strategy"], "family": row["family"], "guarantee": row["guarantee"],
            "colour": looks[row["family"]][0], "unsupported": row["unsupported"]}


def _figure(column: tables.Column, row: "pd.Series[Any] | None") -> dict[str, str]:
    """Return a number as displayed, its interval, and its sort key."""
    if row is None:
        return {"value": tables.DASH, "ends": "", "sort": ""}
    value, _, ends = column.text(row).partition(" [")
    if column is tables.QUALITY and row["quality_note"]:
        value = tables.quality_reason(row)
    number = float(row[column.key])
    return {"value": value, "ends": f"[{ends}" if ends else "", "sort": "" if math.isnan(number) else f"{number:.6g}"}


def _command(manifest: Manifest, row: "pd.Series[Any]") -> str:
    if "imported" in manifest.config:
        return manifest.command
    arguments = ["decodebench", "run", "-m", manifest.model.name]
    if manifest.draft and row["draft_forwards_per_token"] > 0:
        arguments += ["--draft", manifest.draft.name]
    return shlex.join([*arguments, "-s", row["strategy"], "-t", row["task"]])


def _details(stores: Sequence[Store], contents: Contents) -> dict[str, Any]:
    """Return the data of the page: the samples of each cell, its baseline's cell, and each text once."""
    summary = contents.summary
    several, texts = "run" in summary, dict[str, int]()
    rows = summary.to_dict("records")
    index = {(row.get("run", ""), row["task"], row["strategy"]): number for number, row in enumerate(rows)}
    cells: list[dict[str, Any]] = [
        {"task": row["task"], "label": label, "baseline": None, "samples": [], "total": row["samples"] + row["failed"]}
        for label, row in zip(tables.row_labels(summary), rows, strict=True)
    ]
    limit = max(1, SHOWN // max(1, len(cells)))
    for store, label, keys in zip(stores, run_labels(stores), contents.keys, strict=True):
        run = label if several else ""
        for (cell_run, task, _), number in index.items():
            if cell_run == run:
                cells[number]["baseline"] = index.get((run, task, store.manifest.baseline))
        for record in records(store, _first_examples(store, keys, cells, limit)):
            cells[index[run, record.task, record.strategy]]["samples"].append(_sample(record, texts))
    names = task_names(summary["task"].unique())
    return {"texts": list(texts), "cells": [cell | {"task": names[cell["task"]]} for cell in cells]}


def _first_examples(store: Store, keys: pd.DataFrame, cells: Sequence[Mapping[str, Any]], limit: int) -> set[int]:
    """Return the record numbers of the first examples of each task, so that no cell has more than `limit` samples.

    At least one example of each task is included.
    """
    largest = {task.spec: max(cell["total"] for cell in cells if cell["task"] == task.spec)
               for task in store.manifest.tasks}
    allowed = {task.spec: max(1, limit * task.examples // max(1, largest[task.spec])) for task in store.manifest.tasks}
    examples: dict[str, dict[str, int]] = {task: {} for task in allowed}
    return {number for number, (task, example) in enumerate(zip(keys["task"], keys["example"], strict=True))
            if examples[task].setdefault(example, len(examples[task])) < allowed[task]}


def _sample(record: Record, texts: dict[str, int]) -> dict[str, Any]:
    def number(text: str) -> int:
        return texts.setdefault(text, len(texts))

    return {
        "example": record.example, "sample": record.sample, "repeat": record.repeat, "error": record.error,
        "scores": {name: value if math.isfinite(value) else None for name, value in record.scores.items()},
        "turns": [{"prompt": number(turn.prompt), "text": number(turn.text), "stop": turn.stop,
                   "tokens": None if has_text_only(turn) else sum(turn.steps.tokens),
                   "seconds": round(seconds, 6) if math.isfinite(seconds := sum(turn.steps.seconds)) else None}
                  for turn in record.turns],
    }


def _embedded(details: Mapping[str, Any]) -> str:
    """Return JSON that can be embedded in a script element: no text can close the element."""
    return json.dumps(details, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
