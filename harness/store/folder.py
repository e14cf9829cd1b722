"""The folder of a run: a manifest written before the first token, and records that are only ever appended."""

from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from harness.errors import UserError
from harness.store.files import cannot_write, replace_file
from harness.store.jsonl import append, first, mend
from harness.store.lock import HOLDER, LOCK, locked
from harness.store.schema import Divergence, Key, Limits, Manifest, Record, Sample, TextMetrics, shared_key

M = TypeVar("M", bound=BaseModel)


class Store:
    """The folder of one run: `manifest.json`, `records/0000.jsonl`, and what is derived from them."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest

    @property
    def path(self) -> Path:
        """The file that this process appends to."""
        return self.folder / "records" / "0000.jsonl"

    @classmethod
    @contextmanager
    def begin(cls, folder: Path, manifest: Manifest) -> Iterator["Store"]:
        """Start a run in `folder`, or resume the same one, and hold its lock until the block ends.

        Raises `UserError` when the folder holds something else or cannot be written, or another process holds its lock.
        """
        if folder.exists() and not _may_hold_run(folder):
            raise UserError(f"{folder} exists and is not a run of decodebench; choose another folder with -o.")
        with locked(folder):
            store = cls(folder, manifest)
            if (folder / "manifest.json").exists():
                store = cls.open(folder)
                if difference := _difference(store.manifest.identity(), manifest.identity()):
                    raise UserError(f"{folder} holds another run ({difference} differs); choose another folder with "
                                    "-o.")
            else:
                replace_file(folder / "manifest.json", manifest.model_dump_json(indent=2) + "\n")
            try:
                store.path.parent.mkdir(exist_ok=True)
            except OSError as error:
                raise cannot_write(store.path, error) from None
            mend(store.path)
            yield store

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """Read an existing run; raises `UserError` when `folder` holds none."""
        path = folder / "manifest.json"
        if not path.is_file():
            raise UserError(f"{folder} holds no run: {path.name} is missing; give a folder that `run -o` wrote.")
        try:
            return cls(folder, Manifest.model_validate_json(path.read_text()))
        except ValidationError as error:
            raise UserError(f"{path} was not written by this version of decodebench: {first(error)}.") from None

    def append(self, record: Record) -> None:
        """Write one record as one line and hand it to the operating system before returning."""
        append(self.path, [record])

    def records(self, wanted: Container[int] | None = None) -> Iterator[Record]:
        """Every finished record, one at a time; a torn last line is skipped, any other bad line raises `UserError`.

        With `wanted` only those whose number, counted from 0, is in it; the others are not parsed.
        """
        return self.parts_of_records(Record, wanted)

    def parts_of_records(self, kind: type[M], wanted: Container[int] | None = None) -> Iterator[M]:
        """The fields of every record that `kind` has, as `records` gives whole ones; the fewer fields, the faster."""
        number = -1
        for path in sorted((self.folder / "records").glob("*.jsonl")):
            with path.open("rb") as file:
                for place, line in enumerate(file, start=1):
                    if not line.endswith(b"\n"):
                        break
                    number += 1
                    if wanted is not None and number not in wanted:
                        continue
                    try:
                        yield kind.model_validate_json(line)
                    except ValidationError as error:
                        raise UserError(f"{path}, line {place}: not a record ({first(error)}).") from None

    def finished(self) -> tuple[set[Key], int]:
        """The keys of the finished samples, and how many of them failed."""
        keys, failed, names = set[Key](), 0, dict[str, str]()
        for sample in self.parts_of_records(Sample):
            keys.add(shared_key(sample.key, names))
            failed += sample.status == "failed"
        return keys, failed

    def write_divergences(self, divergences: Iterable[Divergence]) -> None:
        """Write down, in place of what was known before, where answers part from the baseline's."""
        replace_file(self.folder / "divergences.jsonl", "".join(d.model_dump_json() + "\n" for d in divergences))

    @property
    def has_divergences(self) -> bool:
        """Whether the divergences were written down."""
        return (self.folder / "divergences.jsonl").exists()

    def divergences(self) -> list[Divergence]:
        """Where answers that should equal the baseline's part from them; empty when that was never looked at."""
        path = self.folder / "divergences.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        try:
            return [Divergence.model_validate_json(line) for line in lines]
        except ValidationError as error:
            raise UserError(f"{path}: not a list of divergences ({first(error)}); run again to mend it.") from None

    def write_text_metrics(self, texts: TextMetrics) -> None:
        """Write down, in place of what was known before, what models make of the texts."""
        replace_file(self.folder / "texts.json", texts.model_dump_json() + "\n")

    def text_metrics(self) -> TextMetrics | None:
        """What models make of the texts, None when that was never asked for."""
        path = self.folder / "texts.json"
        try:
            return TextMetrics.model_validate_json(path.read_text(encoding="utf-8")) if path.exists() else None
        except ValidationError as error:
            raise UserError(f"{path}: not metrics of texts ({first(error)}); remove it and run again.") from None

    def write_limits(self, limits: Limits) -> None:
        """Write down, in place of what was known before, what the machine of the run can do."""
        replace_file(self.folder / "limits.json", limits.model_dump_json(indent=1) + "\n")

    def limits(self) -> Limits | None:
        """What the machine of the run can do, None when that was never measured."""
        path = self.folder / "limits.json"
        try:
            return Limits.model_validate_json(path.read_text(encoding="utf-8")) if path.exists() else None
        except ValidationError as error:
            raise UserError(f"{path}: not limits ({first(error)}); remove it and measure again.") from None


def _may_hold_run(folder: Path) -> bool:
    """Whether a run can begin or go on in a folder that exists: there is nothing else in it."""
    if not folder.is_dir():
        return False
    names = [path.name for path in folder.iterdir()]
    return "manifest.json" in names or all(name in (LOCK, HOLDER) or name.endswith(".part") for name in names)


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The first place where two identities differ, in words, or an empty string; None is as good as missing."""
    for key in old:
        if isinstance(old[key], dict) and isinstance(new[key], dict):
            if inner := [k for k in old[key] | new[key] if old[key].get(k) != new[key].get(k)]:
                return f"{key}.{inner[0]}"
        elif old[key] != new[key]:
            return str(key)
    return ""
