"""From the files of another tool to a run on disk: what they have in common, and what is said of what they lack."""

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
    """A file to import, and the name that the user gave to what made it (or none)."""

    path: Path
    name: str = ""


@dataclass
class ImportedRun:
    """The answers of one strategy to one task, once: records whose `task`, `strategy` and `repeat` are set later.

    `identity` says of each example what must be the same wherever it was answered.
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
    """The files that are there; raises `UserError` for one that is not."""
    return [_source(text) for text in files]


def _source(text: str) -> Source:
    for at in (0, *(match.end() for match in re.finditer("=", text))):  # names and paths may hold a "=" themselves
        if Path(text[at:]).is_file():
            return Source(Path(text[at:]), text[:max(0, at - 1)])
    raise UserError(f"There is no file {text}; give a path, or NAME=PATH.")


def require_empty(folder: Path) -> None:
    """Raise `UserError` unless a new run can be made in `folder`."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty; choose another folder with -o.")


def rows(path: Path) -> Iterator[tuple[str, Any]]:
    """The JSON objects of a file, each with its place in words; raises `UserError` for anything else."""
    count = 0
    for number, value in read_jsonl(path):
        count, where = count + 1, f"{path}, line {number}"
        if not isinstance(value, dict):
            raise UserError(f"{where}: this is not a JSON object.")
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise UserError(f"{where}: a text holds half of a surrogate pair, which is no character.") from None
        yield where, value
    if not count:
        raise UserError(f"{path} has no rows.")


def record(example: str, **facts: Any) -> Record:
    """A record that `assemble` completes."""
    unset: dict[str, Any] = {"task": "", "strategy": "", "sample": 0, "repeat": 0, "block": 0, "order": 0,
                             "started": 0.0}
    return Record(**unset | {"example": example} | facts)


def assemble(found: Sequence[tuple[Source, ImportedRun]], format: str, folder: Path, command: str) -> Store:
    """Write the run; the first strategy is the baseline, and several files of one strategy and task are repeats.

    Raises `UserError` when two files give one example different prompts, or when `folder` is taken.
    """
    records, seen = list[Record](), dict[tuple[str, str], list[str]]()
    strategies = list(dict.fromkeys(_spec(one.strategy) for _, one in found))
    examples: dict[str, dict[str, str]] = {}
    for source, one in found:
        known, spec = examples.setdefault(one.task, {}), _spec(one.strategy)
        for example, identity in one.identity.items():
            if known.setdefault(example, identity) != identity:
                raise UserError(f"{source.path}: the example {example} of {one.task} is not the one of the files "
                                "before; import them separately.")
        models = seen.setdefault((one.task, spec), [])
        if models and one.model != models[0]:
            raise UserError(f"{source.path}: {spec} is here of {one.model}, and of {models[0]} in the files before; "
                            "import them separately, or name the strategies with NAME=PATH.")
        models.append(one.model)
        number = {example: place for place, example in enumerate(known)}
        records += [each.model_copy(update={"task": one.task, "strategy": spec, "repeat": len(models) - 1,
                                            "block": number[each.example], "order": strategies.index(spec)})
                    for each in one.records]
    manifest = _manifest(found, strategies, examples, records, format, command)
    staging = folder.resolve().with_name(folder.resolve().name + ".part")
    shutil.rmtree(staging, ignore_errors=True)
    with Store.begin(staging, manifest) as store:
        append(store.path, records)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("records", "manifest.json"):  # the manifest last: it is what makes a folder a run
        (staging / name).replace(folder / name)
    shutil.rmtree(staging)
    return Store.open(folder)


def _spec(name: str) -> str:
    """A name that tables can take for a strategy's."""
    try:
        Spec.parse(name)
    except UserError:
        name = re.sub(r"[^\w.+-]+", "-", name)
    return re.sub(r"[^\w.:=,+-]+", "-", name).strip("-") or "unknown"


def _manifest(found: Sequence[tuple[Source, ImportedRun]], strategies: Sequence[str],
              examples: Mapping[str, Mapping[str, str]], records: Sequence[Record], format: str,
              command: str) -> Manifest:
    drafting = {each.strategy for each in records if any(turn.steps.drafted for turn in each.turns)}
    models = list(dict.fromkeys(one.model for _, one in found if one.model != "unknown"))
    warnings = [warning for _, one in found for warning in one.warnings]
    if len(models) > 1:
        warnings.append(f"The files name several models: {', '.join(models)}.")
    files = {str(source.path.name): hashlib.sha256(source.path.read_bytes()).hexdigest()[:16] for source, _ in found}
    return Manifest(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), command=command,
        baseline=strategies[0],
        config={"imported": format, "files": files, "concurrency": max(one.concurrency for _, one in found)},
        strategies=[StrategyEntry(spec=spec, name=Spec.parse(spec).name,
                                  family="speculative" if spec in drafting else "imported",
                                  guarantee="changes-output", paper="", knobs={}) for spec in strategies],
        tasks=[_task([one for _, one in found if one.task == task], known) for task, known in examples.items()],
        model=ModelEntry(name=models[0] if models else "unknown", architecture="", parameters=0, dtype="unknown",
                         fingerprint=""),
        draft=None, environment={}, warnings=list(dict.fromkeys(warnings)))


def _task(found: Sequence[ImportedRun], examples: Mapping[str, str]) -> TaskEntry:
    headline = next((one.headline for one in found if one.headline), "")
    digest = hashlib.sha256(json.dumps(examples, sort_keys=True).encode()).hexdigest()
    return TaskEntry(spec=found[0].task, version=0, headline=headline, unscored=None if headline else UNSCORED,
                     data="imported", data_hash=digest[:16], examples=len(examples),
                     max_new_tokens=max(one.max_new_tokens for one in found))
