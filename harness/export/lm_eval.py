"""Sample logs of lm-evaluation-harness (`--log_samples`): one file per task, one row per problem and filter.

Fields are those of lm-eval 0.4: each request has a prompt (`arg_0`) and settings (`arg_1`), `resps` has its answers.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from harness.errors import UserError
from harness.export import ExportedFiles, file_names, left_out
from harness.export.imported import ImportedRun, Source, record, rows
from harness.plugins.spec import labels
from harness.store.files import replace_file
from harness.store.folder import Store
from harness.store.foreign import Row, checked, equally_long
from harness.store.schema import Record, Steps, Stop, TaskEntry, Turn

UNKNOWN = "lm-eval logs no times, tokens or steps: only quality and texts are known."
SEVERAL = "lm-eval scores all answers to a prompt together: the score is assigned to the first."


def write(store: Store, folder: Path) -> ExportedFiles:
    """Write one STRATEGY/samples_TASK_DATE.jsonl per strategy and task, without failed samples.

    A row is one sample; all samples of a problem have the same `doc_id`. Each row also has our `model`, `task`,
    `strategy`, `example`, `sample`, `repeat` and `stop`. Of lm-eval's fields of a problem only the prompt is known.
    """
    tasks = {entry.spec: entry for entry in store.manifest.tasks}
    names = file_names(labels(entry.spec for entry in store.manifest.strategies))
    titles = file_names({task: task for task in tasks})
    files: dict[tuple[str, str], list[str]] = {(spec, task): [] for spec in names for task in tasks}
    numbers, failed = dict[str, dict[str, int]](), 0
    for one in store.records():
        known = numbers.setdefault(one.task, {})
        number = known.setdefault(one.example, len(known))
        if one.status == "ok":
            row = _row(one, number, tasks[one.task]) | {"model": store.manifest.model.name}
            files[one.strategy, one.task].append(json.dumps(row, ensure_ascii=False) + "\n")
        failed += one.status == "failed"
    date = re.sub(r"\+.*", "", store.manifest.created).replace(":", "-")
    paths = [replace_file(folder / names[spec] / f"samples_{titles[task]}_{date}.jsonl", "".join(lines))
             for (spec, task), lines in files.items() if lines]
    return ExportedFiles(paths, left_out(failed))


def _row(one: Record, number: int, task: TaskEntry) -> dict[str, Any]:
    document = {"id": one.example, "category": one.category}
    settings = {"max_gen_toks": task.max_new_tokens, "strategy": one.strategy}
    texts = [[turn.text] for turn in one.turns]
    return {
        "doc_id": number, "doc": document, "target": "",
        "arguments": {f"gen_args_{i}": {"arg_0": turn.prompt, "arg_1": settings} for i, turn in enumerate(one.turns)},
        "resps": texts, "filtered_resps": [text for text, in texts], "filter": "none", "metrics": list(one.scores),
        "doc_hash": _digest(json.dumps(document, indent=2, ensure_ascii=False)),
        "prompt_hash": _digest(one.turns[0].prompt if one.turns else ""), "target_hash": _digest(""),
        **one.scores, "task": one.task, "strategy": one.strategy, "example": one.example, "sample": one.sample,
        "repeat": one.repeat, "stop": [turn.stop for turn in one.turns],
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


class LoggedSample(Row):
    """One row; the fields from `model` on are in our own files only."""

    doc_id: int | str
    arguments: dict[str, dict[str, Any]] = Field(min_length=1)
    resps: list[list[Any]] = Field(min_length=1)
    filter: str = "none"
    metrics: list[str] = Field(default_factory=list)
    doc_hash: str = ""
    prompt_hash: str = ""
    model: str = ""
    task: str = ""
    strategy: str = ""
    example: str = ""
    sample: int = 0
    repeat: int = 0
    stop: list[Stop] = Field(default_factory=list)


class Problem(NamedTuple):
    """One sample of a problem, over all filters."""

    where: str
    row: LoggedSample
    scores: dict[str, float]


def read(source: Source) -> list[ImportedRun]:
    """Import the answers of one file; raises `UserError` for an invalid row, or a task that compares likelihoods.

    The file name gives the task, its folder the model, the requests' settings the strategy. A score is named METRIC, or
    METRIC,FILTER if the task has several filters; the first one is the headline.
    """
    problems, invalid = _problems(source)
    name, parent = re.sub(r"^samples_|_\d{4}-\d{2}-\d{2}T.*$", "", source.path.stem), source.path.resolve().parent.name
    runs: dict[int, ImportedRun] = {}
    for where, row, scores in problems:
        run = runs.setdefault(row.repeat, ImportedRun(row.task or name, source.name or row.strategy or _settings(row),
                                                      model=row.model or parent, warnings=[UNKNOWN, *invalid]))
        run.headline = run.headline or next(iter(scores), "")
        _add(run, row, scores, where)
    return list(runs.values())


def _settings(row: LoggedSample) -> str:
    """Return a strategy name made of the request settings."""
    settings = next(iter(row.arguments.values())).get("arg_1")
    knobs = {key: value for key, value in settings.items() if isinstance(value, int | float | str)
             and key != "max_gen_toks"} if isinstance(settings, dict) else {}
    return ":".join(filter(None, ("lm-eval", ",".join(f"{key}={value}" for key, value in sorted(knobs.items())))))


def _problems(source: Source) -> tuple[list[Problem], list[str]]:
    """Merge the rows of each problem, and return warnings about scores that are not numbers."""
    parsed = [(where, checked(LoggedSample, value, where), value) for where, value in rows(source.path)]
    several = len({row.filter for _, row, _ in parsed}) > 1
    problems, filters, warnings = dict[Any, Problem](), set[Any](), dict[str, None]()
    for where, row, value in parsed:
        key = (row.doc_id, row.sample, row.repeat)
        if (key, row.filter) in filters:
            raise UserError(f"{where}: the problem {row.doc_id} occurs twice with the filter '{row.filter}'.")
        filters.add((key, row.filter))
        scores = problems.setdefault(key, Problem(where, row, {})).scores
        for metric in row.metrics:
            if isinstance(score := value.get(metric), int | float):
                scores[f"{metric},{row.filter}" if several else metric] = float(score)
            else:
                warnings[f"'{metric}' is not a number for each problem of {source.path.name}, and is left out."] = None
    return list(problems.values()), list(warnings)


def _add(run: ImportedRun, row: LoggedSample, scores: dict[str, float], where: str) -> None:
    """Add a record for each answer to a problem; the first has the scores, and several requests become turns."""
    requests, example = list(row.arguments.values()), row.example or f"{run.task}/{row.doc_id}"
    equally_long({"arguments": requests, "resps": row.resps}, where)
    if not all(isinstance(one.get("arg_1"), dict) for one in requests):
        raise UserError(f"{where}: the task compares likelihoods; only tasks that generate text can be imported.")
    run.identity[example] = row.prompt_hash or _digest(str(requests[0].get("arg_0")))
    limits = [one["arg_1"].get("max_gen_toks") for one in requests]
    run.max_new_tokens = max([run.max_new_tokens, *(limit for limit in limits if isinstance(limit, int))])
    answers = list(zip(*row.resps, strict=False))
    if len(answers) > 1 and SEVERAL not in run.warnings:
        run.warnings.append(SEVERAL)
    stops = row.stop or ["unknown"] * len(requests)
    for number, texts in enumerate(answers):
        turns = [Turn(prompt=str(request.get("arg_0", "")), prompt_tokens=0, text=str(text), raw=str(text), tokens=[],
                      stop=stop, steps=Steps()) for request, text, stop in zip(requests, texts, stops, strict=True)]
        run.records.append(record(example, sample=row.sample + number, turns=turns, scores={} if number else scores))
