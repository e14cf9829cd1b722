"""Converts result files of other tools to a run on disk: the part that all importers share."""

import datetime
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.plugins.data import read_jsonl
from harness.plugins.spec import Spec
from harness.store.folder import Store
from harness.store.jsonl import append
from harness.store.schema import Manifest, ModelEntry, Record, StrategyEntry, TaskEntry

UNSCORED = "the imported file has no scores"


@dataclass(frozen=True)
class Source:
    """A file to import, and the strategy's name if the user gave one."""

    path: Path
    name: str = ""


@dataclass
class ImportedRun:
    """One strategy's answers to one task: records whose `task`, `strategy` and `repeat` are set later.

    `identity` has for each example a value that must be the same in all files.
    """

    task: str
    strategy: str
    records: list[Record] = field(default_factory=list)
    identity: dict[str, str] = field(default_factory=dict)
    model: str = "unknown"
    headline: str = ""
    max_new_tokens: int = 0
    concurrency: int = 1
    warnings: list[str] = field(default_factory=list)


def sources(files: Sequence[str]) -> list[Source]:
    """Parse file arguments; raises `UserError` for a file that does not exist."""
    return [_source(text) for text in files]


def _source(text: str) -> Source:
    for at in (0, *(match.end() for match in re.finditer("=", text))):  # names and paths may contain "="
        if Path(text[at:]).is_file():
            return Source(Path(text[at:]), text[:max(0, at - 1)])
    raise UserError(f"There is no file {text}; give a path, or NAME=PATH.")


def require_empty(folder: Path) -> None:
    """Raise `UserError` unless `folder` is empty or does not exist."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty; choose another folder with -o.")


def rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the JSON objects of a file, each with its file and line; raises `UserError` for anything else."""
    count = 0
    for number, value in read_jsonl(path):
        count, where = count + 1, f"{path}, line {number}"
        if not isinstance(value, dict):
            raise UserError(f"{where}: this is not a JSON object.")
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise UserError(f"{where}: a string contains an unpaired surrogate, which is not valid Unicode.") from None
        yield where, value
    if not count:
        raise UserError(f"{path} has no rows.")


def record(example: str, **facts: Any) -> Record:
    """Return a record without the fields that `assemble` sets."""
    unset: dict[str, Any] = {"task": "", "strategy": "", "sample": 0, "repeat": 0, "block": 0, "order": 0,
                             "started": 0.0}
    return Record(**unset | {"example": example} | facts)


def assemble(runs: Sequence[tuple[Source, ImportedRun]], format: str, folder: Path, command: str) -> Store:
    """Write the run; the first strategy is the baseline, and several files of one strategy and task are repeats.

    Raises `UserError` if two files have different prompts for one example, or different models for one strategy.
    """
    records, seen = list[Record](), dict[tuple[str, str], list[str]]()
    strategies = list(dict.fromkeys(_spec(run.strategy) for _, run in runs))
    examples: dict[str, dict[str, str]] = {}
    for source, run in runs:
        known, spec = examples.setdefault(run.task, {}), _spec(run.strategy)
        for example, identity in run.identity.items():
            if known.setdefault(example, identity) != identity:
                raise UserError(f"{source.path}: the example {example} of {run.task} differs from that of earlier "
                                "files; import them separately.")
        models = seen.setdefault((run.task, spec), [])
        if models and run.model != models[0]:
            raise UserError(f"{source.path}: {spec} ran on {run.model} here, but on {models[0]} in earlier files; "
                            "import them separately, or name the strategies with NAME=PATH.")
        models.append(run.model)
        number = {example: index for index, example in enumerate(known)}
        records += [record.model_copy(update={"task": run.task, "strategy": spec, "repeat": len(models) - 1,
                                              "block": number[record.example], "order": strategies.index(spec)})
                    for record in run.records]
    manifest = _manifest(runs, strategies, examples, records, format, command)
    staging = folder.resolve().with_name(folder.resolve().name + ".part")
    shutil.rmtree(staging, ignore_errors=True)
    with Store.begin(staging, manifest) as store:
        append(store.path, records)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("records", "manifest.json"):  # the manifest last: a folder with a manifest is a run
        (staging / name).replace(folder / name)
    shutil.rmtree(staging)
    return Store.open(folder)


def _spec(name: str) -> str:
    """Return a name in the form of a strategy spec."""
    try:
        Spec.parse(name)
    except UserError:
        name = re.sub(r"[^\w.+-]+", "-", name)
    return re.sub(r"[^\w.:=,+-]+", "-", name).strip("-") or "unknown"


def _manifest(runs: Sequence[tuple[Source, ImportedRun]], strategies: Sequence[str],
              examples: Mapping[str, Mapping[str, str]], records: Sequence[Record], format: str,
              command: str) -> Manifest:
    drafting = {record.strategy for record in records if any(turn.steps.drafted for turn in record.turns)}
    models = list(dict.fromkeys(run.model for _, run in runs if run.model != "unknown"))
    warnings = [warning for _, run in runs for warning in run.warnings]
    if len(models) > 1:
        warnings.append(f"The files name several models: {', '.join(models)}.")
    files = {str(source.path.name): hashlib.sha256(source.path.read_bytes()).hexdigest()[:16] for source, _ in runs}
    return Manifest(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), command=command,
        baseline=strategies[0],
        config={"imported": format, "files": files, "concurrency": max(run.concurrency for _, run in runs)},
        strategies=[StrategyEntry(spec=spec, name=Spec.parse(spec).name,
                                  family="speculative" if spec in drafting else "imported",
                                  guarantee="changes-output", paper="", knobs={}) for spec in strategies],
        tasks=[_task([run for _, run in runs if run.task == task], known) for task, known in examples.items()],
        model=ModelEntry(name=models[0] if models else "unknown", architecture="", parameters=0, dtype="unknown",
                         fingerprint=""),
        draft=None, environment={}, warnings=list(dict.fromkeys(warnings)))


def _task(runs: Sequence[ImportedRun], examples: Mapping[str, str]) -> TaskEntry:
    headline = next((run.headline for run in runs if run.headline), "")
    digest = hashlib.sha256(json.dumps(examples, sort_keys=True).encode()).hexdigest()
    return TaskEntry(spec=runs[0].task, version=0, headline=headline, unscored=None if headline else UNSCORED,
                     data="imported", data_hash=digest[:16], examples=len(examples),
                     max_new_tokens=max(run.max_new_tokens for run in runs))
