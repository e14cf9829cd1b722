"""The report as one self-contained HTML page: verdict, leaderboard, tables, pictures, and every answer."""

import json
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from harness import nano
from harness.measure.leaderboard import leaderboard, rule
from harness.measure.summary import manifests_of, run_labels
from harness.plugins.task_names import task_names
from harness.report import page_rows, tables, texts
from harness.report.answers import compressed
from harness.report.badges import BADGES
from harness.report.detail import BREAK_EVEN, Contents, collect
from harness.report.page_pictures import pictures_of
from harness.report.page_rows import Marks
from harness.report.page_samples import Samples, samples_of
from harness.store.folder import Store
from harness.store.schema import Manifest

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("core", "board", "pictures", "batches", "loops", "distributions", "orders", "answers", "tree", "playback",
           "sample", "start")
IMPORTANT = ("quality", "speedup", "tau_pooled", "forwards_per_token", "truncated")  # columns that always show


def render(stores: Sequence[Store], contents: Contents | None = None, samples: Samples | None = None) -> str:
    """Return the page of one or several runs.

    `contents` is `collect(stores)` and `samples` is what `samples_of` returns, if they are already computed.
    """
    contents = contents or collect(stores)
    summary, marks = contents.summary, Marks.of(stores, contents.summary)
    overview = _overview(stores, summary, marks)
    index, blocks = samples or samples_of(stores, [store.length() for store in stores])
    return template("index.html.j2").render(
        css=css(), js=_script(), badges=BADGES,
        runs=[_run(store.manifest, label) for store, label in zip(stores, run_labels(stores), strict=True)],
        totals={"samples": int((summary["samples"] + summary["failed"]).sum()), "failed": int(summary["failed"].sum())},
        verdict=contents.verdict,
        notes=[*tables.deciding_note(summary), *tables.notes(summary)],
        overview=overview,
        tasks=[_task(stores, summary, task, marks) | {"texts": _texts(contents.sections, task)}
               for task in summary["task"].unique()],
        glossary=tables.all_columns(summary),
        text_glossary={column.title: column.help for section in contents.sections
                       for column in section.filled_columns(section.rows)},
        pictures=Markup(_embedded(pictures_of(contents, overview.pop("board")))),
        data=Markup(compressed(index)), blocks={name: Markup(packed) for name, packed in blocks.items()},
    )


@cache
def template(name: str) -> Template:
    """Return a page template, which escapes all inserted text."""
    return Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
                       undefined=StrictUndefined).get_template(name)


def css() -> Markup:
    """Return the style sheet of all pages."""
    return Markup((TEMPLATES / "report.css").read_text(encoding="utf-8"))


def _script() -> Markup:
    parts = [(TEMPLATES / "page" / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    return Markup('"use strict";\n(() => {\n' + "\n".join(parts) + "})();")


def _run(manifest: Manifest, label: str) -> dict[str, Any]:
    model = manifest.model
    details = [model.architecture, f"{model.parameters:,} parameters" if model.parameters else "", model.dtype]
    facts = {"model": f"{model.name} ({', '.join(filter(None, details)) or 'no details'})"}
    if manifest.draft:
        facts["draft model"] = f"{manifest.draft.name} ({manifest.draft.parameters:,} parameters)"
    for head in {entry.head.name: entry.head for entry in manifest.strategies if entry.head}.values():
        facts[f"head of {head.kind}"] = f"{head.name} ({head.parameters:,} parameters)"
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


def _overview(stores: Sequence[Store], summary: pd.DataFrame, marks: Marks) -> dict[str, Any]:
    """Return the leaderboard: one row per strategy with figures of all tasks, then a cell for each task."""
    tasks = list(summary["task"].unique())
    board = leaderboard(summary, manifests_of(stores))
    board = board.assign(label=tables.row_labels(board))
    columns = [column for column in tables.LEADERBOARD if column is tables.RANK or board[column.key].notna().any()]
    cells = {(row["task"], row.get("run"), row["strategy"]): row for _, row in summary.iterrows()}
    scales = {column.key: page_rows.scale(column, board) for column in columns}
    by_speed = not (summary["quality_gain"].abs() > 0).any()
    rows = [{**marks.identity(row), "quality": page_rows.plain(row["quality_mean"]),
             "figures": [page_rows.figure(column, row, scales[column.key]) for column in columns],
             "cells": [page_rows.heat(cells.get((task, row.get("run"), row["strategy"])), by_speed, not row["unranked"])
                       for task in tasks]}
            for _, row in board.iterrows()]
    return {"tasks": list(task_names(tasks).values()), "rows": rows, "columns": columns, "rule": rule(board),
            "by_speed": by_speed, "board": board, "families": sorted(board["family"].unique()),
            "badges": [badge for badge in BADGES if badge in {row["badge"] for row in rows}]}


def _task(stores: Sequence[Store], summary: pd.DataFrame, task: str, marks: Marks) -> dict[str, Any]:
    """Return the section of a task."""
    rows = summary.assign(label=tables.row_labels(summary))[summary["task"] == task]
    columns, name = tables.filled_columns(rows), task_names(summary["task"].unique())[task]
    manifests = manifests_of(stores)
    scales = {column.key: page_rows.scale(column, rows) for column in columns}
    return {
        "name": name, "anchor": quote(name, safe=""), "note": rows["quality_note"].iloc[0],
        "metric": rows["quality_metric"].iloc[0], "columns": columns, "important": IMPORTANT,
        "rows": [{
            **marks.identity(row), "quality": page_rows.plain(row["quality"]),
            "samples": int(row["samples"]), "status": tables.status(row),
            "figures": [page_rows.figure(column, row, scales[column.key]) for column in columns],
            "command": _command(manifests[str(row.get("run", ""))], row, marks),
        } for _, row in rows.iterrows()],
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
                          "notes": section.notes, "pictured": section.kind.name == BREAK_EVEN,
                          "rows": [{"label": row["label"], "spec": row["strategy"],
                                    "figures": [page_rows.figure(column, row) for column in columns]}
                                   for _, row in rows.iterrows()]})
    return shown


def _command(manifest: Manifest, row: "pd.Series[Any]", marks: Marks) -> str:
    if "imported" in manifest.config:
        return manifest.command
    arguments = ["decodebench", "run", "-m", manifest.model.name]
    if manifest.draft and marks.drafts[str(row.get("run", "")), str(row["strategy"])]:
        arguments += ["--draft", manifest.draft.name]
    head = next((entry.head for entry in manifest.strategies if entry.spec == row["strategy"]), None)
    if head and head.name not in nano.heads():
        arguments += ["--head", head.name]
    return shlex.join([*arguments, "-s", row["strategy"], "-t", row["task"]])


def _embedded(details: Mapping[str, Any]) -> str:
    """Return JSON that can be embedded in a script element: no text can close the element."""
    return json.dumps(details, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
