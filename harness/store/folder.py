"""The folder of a run: a manifest written before the first record, and records that are appended.

They are replaced only to add scores to answers whose programs were not allowed to run before, and when a failed sample
is tried again.
"""

from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from harness.errors import UserError
from harness.store.files import cannot_write, replace_file
from harness.store.jsonl import append, first, mend, read
from harness.store.lock import HOLDER, LOCK, locked
from harness.store.machine import machine_of, without_times
from harness.store.schema import (
    Divergence,
    Expected,
    Key,
    Limits,
    Manifest,
    Record,
    Sample,
    SampleTrees,
    TextMetrics,
    shared_key,
)

EXPECTED = "expected.jsonl"
TREES = "trees.jsonl"
M = TypeVar("M", bound=BaseModel)


class Store:
    """The folder of one run: `manifest.json`, `records/0000.jsonl`, and files derived from them.

    Records are appended without times if they are not `timed`: when a run goes on, on a machine of another kind.
    """

    def __init__(self, folder: Path, manifest: Manifest, timed: bool = True) -> None:
        self.folder, self.manifest, self.timed = folder, manifest, timed

    @property
    def path(self) -> Path:
        """The file to which this process appends."""
        return self.folder / "records" / "0000.jsonl"

    @classmethod
    @contextmanager
    def begin(cls, folder: Path, manifest: Manifest) -> Iterator["Store"]:
        """Start or resume a run in `folder`, and hold its lock until the block ends.

        Raises `UserError` when the folder has other contents, cannot be written, or is locked by another process.
        """
        refuse_other(folder)
        with locked(folder):
            store = cls.resumed(folder, manifest)
            if store is None:
                store = cls(folder, manifest)
                store.replace_manifest(manifest)
            try:
                store.path.parent.mkdir(exist_ok=True)
            except OSError as error:
                raise cannot_write(store.path, error) from None
            mend(store.path)
            yield store

    @classmethod
    def resumed(cls, folder: Path, manifest: Manifest) -> "Store | None":
        """Return the run in `folder` that would be resumed, None if it holds none; raises `UserError` for another one.

        Nothing is written.
        """
        refuse_other(folder)
        if not (folder / "manifest.json").exists():
            return None
        store = cls.open(folder)
        if differs := difference(store.manifest.identity(), manifest.identity()):
            raise UserError(f"{folder} holds another run ({differs} differs); choose another folder with -o, or "
                            "start over with --force.")
        store.timed = machine_of(store.manifest) == machine_of(manifest)
        return store

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """Open an existing run; raises `UserError` when `folder` has none."""
        path = folder / "manifest.json"
        if not path.is_file():
            raise UserError(f"{folder} holds no run: {path.name} is missing; give a folder that `run -o` wrote.")
        try:
            return cls(folder, Manifest.model_validate_json(path.read_text()))
        except ValidationError as error:
            raise UserError(f"{path} was not written by this version of decodebench: {first(error)}.") from None

    def append(self, record: Record) -> None:
        """Append one record as one line, and its trees to `trees.jsonl`, and sync them to disk before returning."""
        if any(turn.trees for turn in record.turns):
            append(self.folder / TREES, [SampleTrees(
                task=record.task, example=record.example, strategy=record.strategy, sample=record.sample,
                repeat=record.repeat, turns=[turn.trees for turn in record.turns])])
        append(self.path, [record if self.timed else without_times(record)])

    def trees(self) -> Iterator[SampleTrees]:
        """Yield the trees of the samples that have some; of a sample that was interrupted, there may be two."""
        return read(self.folder / TREES, SampleTrees, "the trees of a sample")

    def replace_manifest(self, manifest: Manifest) -> None:
        """Write another manifest in place of the present one."""
        replace_file(self.folder / "manifest.json", manifest.model_dump_json(indent=2) + "\n")
        self.manifest = manifest

    def warn(self, text: str) -> None:
        """Add a warning to the manifest, once."""
        if text not in self.manifest.warnings:
            self.replace_manifest(self.manifest.model_copy(update={"warnings": [*self.manifest.warnings, text]}))

    def replace_records(self, change: Callable[[Iterator[Record]], Iterator[Record]]) -> None:
        """Replace the records by what `change` makes of them; a process killed meanwhile leaves them as they were."""
        for path in self.record_files():
            records = self._rows(path, Record, count())
            replace_file(path, (record.model_dump_json() + "\n" for record in change(records)))

    def set_failed_aside(self) -> None:
        """Move the failed samples to `failed.jsonl`, so that they can be tried again and both attempts are kept."""
        append(self.folder / "failed.jsonl", (record for record in self.records() if record.status == "failed"))
        self.replace_records(lambda records: (record for record in records if record.status != "failed"))

    def records(self, wanted: Container[int] | None = None) -> Iterator[Record]:
        """Yield the records in order; an incomplete last line is skipped, any other bad line raises `UserError`.

        `wanted` selects records by their numbers from 0; the others are not parsed.
        """
        return self.parts_of_records(Record, wanted)

    def parts_of_records(self, kind: type[M], wanted: Container[int] | None = None) -> Iterator[M]:
        """Yield the records as `records` does, parsed as `kind` with only its fields, which is faster."""
        numbers = count()
        for path in self.record_files():
            yield from self._rows(path, kind, numbers, wanted)

    def length(self) -> int:
        """Return the number of records, which are not parsed."""
        count = 0
        for path in self.record_files():
            with path.open("rb") as file:
                count += sum(line.endswith(b"\n") for line in file)
        return count

    def record_files(self) -> list[Path]:
        """Return the files with the records, in order."""
        return sorted((self.folder / "records").glob("*.jsonl"))

    def _rows(self, path: Path, kind: type[M], numbers: Iterator[int], wanted: Container[int] | None = None
              ) -> Iterator[M]:
        """Yield the wanted records of one file; `numbers` numbers all of them."""
        with path.open("rb") as file:
            for line_number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                if wanted is not None and next(numbers) not in wanted:
                    continue
                try:
                    yield kind.model_validate_json(line)
                except ValidationError as error:
                    raise UserError(f"{path}, line {line_number}: not a record ({first(error)}).") from None

    def finished(self) -> tuple[set[Key], int]:
        """Return the keys of the finished samples, and the number of failed ones."""
        keys, failed, names = set[Key](), 0, dict[str, str]()
        for sample in self.parts_of_records(Sample):
            keys.add(shared_key(sample.key, names))
            failed += sample.status == "failed"
        return keys, failed

    def write_divergences(self, divergences: Iterable[Divergence]) -> None:
        """Write the divergences of answers from the baseline's, in place of earlier ones."""
        replace_file(self.folder / "divergences.jsonl", "".join(d.model_dump_json() + "\n" for d in divergences))

    @property
    def has_divergences(self) -> bool:
        """Whether the divergences have been written."""
        return (self.folder / "divergences.jsonl").exists()

    def divergences(self) -> list[Divergence]:
        """Return the divergences of answers from the baseline's; empty if they have not been written."""
        path = self.folder / "divergences.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        try:
            return [Divergence.model_validate_json(line) for line in lines]
        except ValidationError as error:
            raise UserError(f"{path}: not a list of divergences ({first(error)}); run again to rewrite it.") from None

    def write_expected(self, texts: Iterable[Expected]) -> None:
        """Write what the answers to each example are compared with, in place of earlier texts."""
        replace_file(self.folder / EXPECTED, (text.model_dump_json() + "\n" for text in texts))

    def expected(self) -> dict[tuple[str, str], str]:
        """Return what answers are compared with, by task and example; empty if that has not been written."""
        return {(one.task, one.example): one.text
                for one in read(self.folder / EXPECTED, Expected, "an expected answer")}

    def write_text_metrics(self, texts: TextMetrics) -> None:
        """Write the text metrics of the run, in place of earlier ones."""
        replace_file(self.folder / "texts.json", texts.model_dump_json() + "\n")

    def text_metrics(self) -> TextMetrics | None:
        """Return the text metrics of the run, None if they have not been computed."""
        path = self.folder / "texts.json"
        try:
            return TextMetrics.model_validate_json(path.read_text(encoding="utf-8")) if path.exists() else None
        except ValidationError as error:
            raise UserError(f"{path}: not metrics of texts ({first(error)}); remove it and run again.") from None

    def write_limits(self, limits: Limits) -> None:
        """Write the measured limits of the run's machine, in place of earlier ones."""
        replace_file(self.folder / "limits.json", limits.model_dump_json(indent=1) + "\n")

    def limits(self) -> Limits | None:
        """Return the measured limits of the run's machine, None if they have not been measured."""
        path = self.folder / "limits.json"
        try:
            return Limits.model_validate_json(path.read_text(encoding="utf-8")) if path.exists() else None
        except ValidationError as error:
            raise UserError(f"{path}: not limits ({first(error)}); remove it and measure again.") from None


def set_aside(folder: Path) -> Path | None:
    """Rename the folder of a run, so that another can start in its place; returns its new name, None if it has no run.

    Raises `UserError` when the folder has other contents, cannot be renamed, or is locked by another process.
    """
    refuse_other(folder)
    if not (folder / "manifest.json").exists() and not any(folder.glob("shard-*")):
        return None
    names = (folder.resolve().with_name(f"{folder.resolve().name}.old-{number}") for number in count(1))
    aside = next(name for name in names if not name.exists())
    with locked(folder):
        try:
            folder.resolve().rename(aside)
        except OSError as error:
            raise cannot_write(folder, error) from None
        (aside / HOLDER).unlink(missing_ok=True)
    return folder.with_name(aside.name)


def refuse_other(folder: Path) -> None:
    """Raise `UserError` for a folder whose contents are not a run's."""
    if folder.exists() and not _may_hold_run(folder):
        raise UserError(f"{folder} exists and is not a run of decodebench; choose another folder with -o.")


def _may_hold_run(folder: Path) -> bool:
    """Return whether an existing folder is a run, or empty except for its shards, lock and temporary files."""
    if not folder.is_dir():
        return False
    names = [path.name for path in folder.iterdir()]
    return "manifest.json" in names or all(
        name in (LOCK, HOLDER) or name.endswith(".part") or name.startswith("shard-") for name in names)


def difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Return the key of the first difference between two identities, or an empty string; None equals missing."""
    for key in old:
        if isinstance(old[key], dict) and isinstance(new[key], dict):
            if inner := [k for k in old[key] | new[key] if old[key].get(k) != new[key].get(k)]:
                return f"{key}.{inner[0]}"
        elif old[key] != new[key]:
            return str(key)
    return ""
