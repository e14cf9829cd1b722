"""Reads the rows of a data set: from `--data DIR`, from `$DECODEBENCH_DATA`, or from the Hugging Face hub."""

import csv
import gzip
import hashlib
import json
import os
import types
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, get_args, get_origin

from harness.errors import UserError

Row = dict[str, Any]
VARIABLE = "DECODEBENCH_DATA"
LONGEST = 16 * 2**20  # maximum bytes of a line
TEXTS = list[str] | list[list[str]]
ANSWER = str | int | float | list[str | int | float]
NAMES: dict[Any, str] = {str: "text", int: "a whole number", bool: "true or false", list: "a list",
                         list[str]: "a list of texts", TEXTS: "a list of texts, or of lists of texts",
                         ANSWER: "a text, a number, or a list of these", dict: "an object",
                         dict | list: "an object or a list"}


@dataclass(frozen=True)
class Hub:
    """The location of a data set on the Hugging Face hub.

    `rows_sha256` is the `digest` of the published rows, None if unknown. `adapt` converts a row of the hub, given its
    index, to the fields of the file.
    """

    repo: str
    config: str | None
    split: str
    revision: str
    rows_sha256: str | None = None
    adapt: Callable[[int, Row], Row] | None = None


@dataclass(frozen=True)
class Download:
    """The download address of a data set that is not on the hub, and the `digest` of its published rows."""

    url: str
    rows_sha256: str | None = None


class DataSource:
    """Finds the rows of data sets, in this order: `folder`, `$DECODEBENCH_DATA`, the hub.

    `rows` records the source of each data set in `origins`, and warnings for the user in `warnings`. Raises `UserError`
    if `folder` does not exist.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folders: list[Path] = []
        self.origins: dict[str, str] = {}
        self.warnings: list[str] = []
        if folder is not None:
            self._add(folder, "--data")
        if variable := os.environ.get(VARIABLE):
            self._add(Path(variable), f"${VARIABLE}")

    def rows(
        self,
        name: str,
        file: str,
        hub: Hub | Download | None,
        fields: Mapping[str, Any],
        *,
        optional: Mapping[str, Any] = types.MappingProxyType({}),
        key: str | None = None,
        check: Callable[[Row], str | None] = lambda row: None,
        fill: Callable[[Row], Row] = lambda row: row,
    ) -> list[Row]:
        """Return the rows of a data set in published order, with `fields` (str, int, list[str] or `TEXTS`) only.

        `file` is JSONL, optionally gzipped. `optional` fields may be missing. `key` is a field with unique values.
        `check` returns any other error of a row, and `fill` converts rows of other versions of the file. `hub` is None
        for the user's own data. Raises `UserError` with file and line of an invalid row, or the failed download.
        """
        path = self._find(name, file)
        origin, unit = (str(path), "line") if path or not isinstance(hub, Hub) else \
            (f"{hub.repo} at {hub.revision}", "row")
        rows = read_jsonl(path) if path else _fetch(name, file, hub)
        filled = ((number, fill(row) if isinstance(row, dict) else row) for number, row in rows)
        valid = checked(filled, origin, fields, optional=optional, key=key, check=check, unit=unit)
        self._note(name, origin, valid, hub)
        return valid

    def file(self, *paths: Path) -> Path:
        """Return the first of a user's files that exists, as given or below a data folder, perhaps gzipped.

        Raises `UserError` if there is none.
        """
        places = (place / one for path in paths for place in (Path(), *self.folders) for one in _with_twin(path))
        if existing := next((place for place in places if place.is_file()), None):
            return existing
        raise UserError(f"There is no file {' or '.join(map(str, paths))}, neither in the current folder nor below "
                        f"--data or ${VARIABLE}.")

    def _add(self, folder: Path, source: str) -> None:
        if not folder.is_dir():
            raise UserError(f"The data folder {folder} ({source}) does not exist; "
                            "give one that is laid out as DIR/gsm8k/test.jsonl.")
        self.folders.append(folder)

    def _find(self, name: str, file: str) -> Path | None:
        paths = (folder / one for folder in self.folders for one in _with_twin(Path(name) / file))
        return next((path for path in paths if path.is_file()), None)

    def _note(self, name: str, origin: str, rows: list[Row], hub: Hub | Download | None) -> None:
        self.origins[name] = origin
        if hub and hub.rows_sha256 not in (None, digest(rows)):
            self.warnings.append(f"The {len(rows)} rows of {name} from {origin} differ from the published ones: "
                                 "do not compare its scores with published figures.")


def _with_twin(path: Path) -> tuple[Path, Path]:
    """Return a path, and that of its gzipped version, or of the plain one if it is gzipped."""
    return path, path.with_suffix("") if path.suffix == ".gz" else Path(f"{path}.gz")


def digest(rows: list[Row]) -> str:
    """Return the SHA-256 of rows in canonical form: one line of ASCII JSON with sorted keys per row."""
    lines = (json.dumps(row, sort_keys=True) + "\n" for row in rows)
    return hashlib.sha256("".join(lines).encode("ascii")).hexdigest()


def checked(
    rows: Iterable[tuple[int, Any]],
    origin: str,
    fields: Mapping[str, Any],
    *,
    optional: Mapping[str, Any] = types.MappingProxyType({}),
    key: str | None = None,
    check: Callable[[Row], str | None] = lambda row: None,
    unit: str = "line",
) -> list[Row]:
    """Check the numbered `rows` of `origin` and keep the wanted fields; arguments as in `DataSource.rows`.

    Raises `UserError` for the first invalid row, or if there are no rows.
    """
    valid: list[Row] = []
    seen: dict[Any, int] = {}
    for number, full in rows:
        where = f"{origin}, {unit} {number}"
        row = select_fields(full, fields, optional, where)
        if problem := check(row):
            raise UserError(f"{where}: {problem}.")
        if key is not None and seen.setdefault(row[key], number) != number:
            raise UserError(f"{where}: the {key} {row[key]!r} was used before, in {unit} {seen[row[key]]}.")
        valid.append(row)
    if not valid:
        raise UserError(f"{origin} has no rows.")
    return valid


def read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the JSON values of a file, optionally gzipped, with line numbers from 1; blank lines are skipped.

    Raises `UserError` with the file and the invalid line.
    """
    for number, line in read_lines(path):
        try:
            if line.strip():
                yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: this is not JSON ({error}).") from None


def read_csv(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield the rows of a CSV file, perhaps gzipped, with the numbers of their last lines; empty cells are left out.

    The first line names the columns. Raises as `read_jsonl`.
    """
    csv.field_size_limit(LONGEST)
    reader = csv.DictReader((line + "\n" for _, line in read_lines(path)), strict=True)
    try:
        for row in reader:
            if None in row:
                raise UserError(f"{path}, line {reader.line_num}: this row has more cells than the first line has "
                                "columns; put cells that contain a comma in double quotes.")
            yield reader.line_num, {name: cell for name, cell in row.items() if cell}
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.reader.line_num}: this is not CSV ({error}).") from None


def read_parquet(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield the numbered rows of a Parquet file; raises `UserError` if it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = (row for batch in pq.ParquetFile(path).iter_batches() for row in batch.to_pylist())
        yield from enumerate(rows, 1)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0].rstrip('.')}.") from None


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a UTF-8 file, optionally gzipped, without line ends; raises as `read_jsonl`."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number in count(1):
                line = file.readline(LONGEST + 1)
                if not line:
                    return
                if len(line) > LONGEST:
                    raise UserError(f"{path}, line {number}: this line has more than {LONGEST >> 20} MiB.")
                yield number, line.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"").decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise UserError(f"{path}, line {number}: this is not UTF-8 text.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def read_text(path: str) -> str:
    """Return the text of a UTF-8 file; raises `UserError` if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"{path} cannot be read: {reason}.") from None


def _fetch(name: str, file: str, hub: Hub | Download | None) -> Iterator[tuple[int, Any]]:
    if hub is None:
        raise UserError(f"The rows of {name} cannot be downloaded: give --data DIR with the file DIR/{name}/{file}.")
    if isinstance(hub, Download):
        raise UserError(f"The rows of {name} are not on the hub: download {hub.url} as DIR/{name}/{file}, "
                        "and give --data DIR.")
    try:
        import datasets

        loaded = datasets.load_dataset(hub.repo, hub.config, split=hub.split, revision=hub.revision)
    except Exception as error:  # the hub's clients raise many kinds; all mean that there are no rows
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(f"The rows of {name} ({hub.repo}) could not be fetched from the Hugging Face hub "
                        f"({reason.rstrip('.')}); give --data DIR with the file DIR/{name}/{file}.") from error
    for index, row in enumerate(loaded):
        yield index + 1, hub.adapt(index, row) if hub.adapt else row


def select_fields(row: Any, fields: Mapping[str, Any], optional: Mapping[str, Any], where: str) -> Row:
    """Return the wanted fields of a row; raises `UserError` if one is missing, empty or of the wrong type."""
    if not isinstance(row, dict):
        raise UserError(f"{where}: this is not a JSON object.")
    given = {field: kind for field, kind in optional.items() if row.get(field) is not None}
    for field, kind in {**fields, **given}.items():
        if field not in row:
            raise UserError(f"{where}: the field '{field}' is missing.")
        if not _fits(row[field], kind):
            raise UserError(f"{where}: the field '{field}' must be {NAMES[kind]}.")
        if field in fields and _empty(row[field]):
            raise UserError(f"{where}: the field '{field}' is empty.")
    return {field: row[field] for field in (*fields, *given)}


def _empty(value: Any) -> bool:
    """Return whether a text is blank, or a list is empty or has a blank item."""
    if isinstance(value, list):
        return not value or any(map(_empty, value))
    return isinstance(value, str) and not value.strip()


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, types.UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(one, get_args(kind)[0]) for one in value)
    if type(value) is str:
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:  # half a surrogate pair, which JSON allows and tokenizers reject
            return False
    return type(value) is kind
