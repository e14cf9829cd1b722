"""A run as two Parquet files with typed columns: one row per sample, and one row per step."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.export import ExportedFiles
from harness.measure.computation import COLUMNS
from harness.measure.raw import COUNTS
from harness.measure.summary import samples
from harness.store.files import replace_file
from harness.store.folder import Store
from harness.store.schema import Record

NAME = pa.dictionary(pa.int32(), pa.string())
STEPS = pa.schema([("task", NAME), ("example", NAME), ("strategy", NAME), ("sample", pa.int32()),
                   ("repeat", pa.int32()), ("turn", pa.int32()), ("step", pa.int32()), ("tokens", pa.int32()),
                   ("seconds", pa.float64()), *((count, pa.int32()) for count in COUNTS)])
TEXTS = pa.schema([("prompts", pa.list_(pa.string())), ("texts", pa.list_(pa.string())),
                   ("stops", pa.list_(pa.string())), ("token_ids", pa.list_(pa.list_(pa.int32())))])
REAL = {"seconds", "batch", "padding", "started", "ttft", "log_speed", "decode_seconds", *COLUMNS}
ROWS = 200_000  # steps of a row group


def write(store: Store, folder: Path) -> ExportedFiles:
    """Write `samples.parquet` (the summary's samples with texts and token ids) and `steps.parquet` (the raw steps).

    Unknown values are null. Prompts, texts, stops and token ids are lists with one entry per turn.
    """
    texts, sink = list[dict[str, Any]](), pa.BufferOutputStream()
    with pq.ParquetWriter(sink, STEPS) as writer:
        for rows in _batches(store, texts):
            writer.write_table(pa.table({name: pa.array(values, STEPS.field(name).type)
                                         for name, values in rows.items()}, schema=STEPS))
    steps = replace_file(folder / "steps.parquet", sink.getvalue().to_pybytes())
    table = _samples(store)
    for name in TEXTS.names:
        table = table.append_column(TEXTS.field(name), pa.array([row[name] for row in texts], TEXTS.field(name).type))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return ExportedFiles([replace_file(folder / "samples.parquet", sink.getvalue().to_pybytes()), steps])


def _samples(store: Store) -> pa.Table:
    """Return the table of samples, with counts as integers and names as categories."""
    frame = samples(store).drop(columns="ids")
    types = {"cut": "boolean", "truncated": "boolean", "error": "str"}
    types |= dict.fromkeys(("task", "example", "strategy", "status", "category"), "category")
    kinds = {str(name): "float64" if name in REAL or str(name).startswith("score_") else "Int64" for name in frame}
    return pa.Table.from_pandas(frame.astype(kinds | types), preserve_index=False)


def _batches(store: Store, texts: list[dict[str, Any]]) -> Iterator[dict[str, list[Any]]]:
    """Yield the columns of the steps in batches; appends one row per sample to `texts`."""
    rows: dict[str, list[Any]] = {name: [] for name in STEPS.names}
    for record in store.records():
        texts.append({"prompts": [turn.prompt for turn in record.turns], "texts": [turn.text for turn in record.turns],
                      "stops": [turn.stop for turn in record.turns],
                      "token_ids": [turn.tokens for turn in record.turns]})
        _add_steps(rows, record)
        if len(rows["step"]) >= ROWS:
            yield rows
            rows = {name: [] for name in STEPS.names}
    yield rows


def _add_steps(rows: dict[str, list[Any]], record: Record) -> None:
    for number, turn in enumerate(record.turns):
        count = len(turn.steps.tokens)
        for name in ("task", "example", "strategy", "sample", "repeat"):
            rows[name] += [getattr(record, name)] * count
        rows["turn"] += [number] * count
        rows["step"] += range(count)
        rows["tokens"] += turn.steps.tokens
        rows["seconds"] += [None if pd.isna(seconds) else seconds for seconds in turn.steps.seconds]
        for name in COUNTS:
            rows[name] += getattr(turn.steps, name) or [None] * count
