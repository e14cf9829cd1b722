"""Reads the records of a run once into flat tables, from which all figures are computed."""

import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.measure.computation import COLUMNS, sums
from harness.measure.judged import records
from harness.store.computed import Sizes
from harness.store.folder import Store
from harness.store.schema import Record, Steps, Turn

NAN = float("nan")
COUNTS = ("forwards", "positions", "drafted", "accepted", "draft_forwards", "draft_positions")
IDENTITY = ["task", "example", "strategy", "sample", "repeat", "status", "error", "category"]
SUMS = ["tokens", *COUNTS, "steps", "decode_tokens", "decode_steps", "decode_seconds"]
NUMBERS = ["seconds", "prompt_tokens", "prompt_shared", "batch", "padding", "started", "block", "peak_bytes", "ttft",
           "log_speed", *SUMS]
END_OF_TURN = -1  # separates the token ids of two turns
UNKNOWN = -1  # a count that another tool did not record
OF_TURNS = ("prompt_tokens", "prompt_shared")  # numbers of turns, added up
LIMITS = ("length", "context")  # reasons of an end that cuts an answer
WHOLE = (*OF_TURNS, "block", "peak_bytes")
PACKED = 4096  # steps that are packed together


@dataclass(frozen=True)
class Cell:
    """The turns and steps of the successful samples of one task and strategy, in the order they ran.

    Columns of `turns`: `sample` (row in `Raw.samples`), `first` (whether it is the first turn), `stop` (the stop
    reason) and `prompt_tokens`. Columns of `steps`: those of `Steps` (times in seconds), `turn` (row in `turns`) and
    `place` (number of the step within its turn, from 0).
    """

    turns: pd.DataFrame
    steps: pd.DataFrame

    @property
    def later(self) -> pd.DataFrame:
        """Return all steps but the first of each turn, which is the prefill."""
        return self.steps[self.steps["place"] > 0]

    @cached_property
    def bursts(self) -> pd.DataFrame:
        """Return one row per step with kept tokens: its `turn`, its `tokens`, and the `seconds` since the previous row.

        The first row of a turn counts from the start of the turn. The time of steps without kept tokens is added to the
        next row.
        """
        tokens, turn = self.steps["tokens"].to_numpy(), self.steps["turn"].to_numpy()
        kept = np.flatnonzero(tokens > 0)
        until = np.searchsorted(kept, np.arange(len(tokens)))  # the burst that each step leads to
        lead = until < len(kept)
        lead[lead] = turn[kept[until[lead]]] == turn[lead]
        seconds = np.bincount(until[lead], self.steps["seconds"].to_numpy()[lead], len(kept))
        of_turn = turn[kept]
        first = np.append(True, of_turn[1:] != of_turn[:-1])[:len(kept)]
        return pd.DataFrame({"turn": of_turn, "tokens": tokens[kept], "seconds": seconds, "first": first})

    def per_turn(self, values: pd.Series) -> NDArray[np.float64]:
        """Return the sum over each turn of a column of `steps`, or of some of its rows."""
        turn = self.steps["turn"].to_numpy()[values.index.to_numpy()]
        return np.bincount(turn, values.to_numpy(), len(self.turns)).astype(float)


EMPTY = Cell(pd.DataFrame({"sample": [], "first": [], "stop": [], "prompt_tokens": []}).astype({"sample": int,
                                                                                               "first": bool}),
             pd.DataFrame({name: np.empty(0, float if name == "seconds" else int)
                           for name in (*Steps.model_fields, "turn", "place")}))


@dataclass(frozen=True)
class Raw:
    """A run as tables: one row per sample in the order they ran, and the turns and steps of each (task, strategy)."""

    samples: pd.DataFrame
    packed: Mapping[tuple[str, str], "PackedCell"]

    def cell(self, task: str, strategy: str) -> Cell:
        """Return the turns and steps of one task and strategy, unpacked at each call; empty without samples."""
        packed = self.packed.get((task, strategy))
        return packed.cell() if packed else EMPTY

    def cells(self) -> Iterator[Cell]:
        """Return an iterator over the turns and steps of every (task, strategy) with samples."""
        return (packed.cell() for packed in self.packed.values())


def read(store: Store, length: int | None = None) -> Raw:
    """Read every record once, or the first `length`; a failed sample has NaN for every number, and no turns.

    Unknown values of imported answers are NaN, too: the counts of steps, and the tokens if there is only a text.
    A run of 400,000 samples takes less than 2 GB, because records are read one by one into narrow columns.
    """
    table, packed = SampleColumns(store.manifest.model.sizes), dict[tuple[str, str], PackedCell]()
    for number, record in enumerate(records(store, None if length is None else range(length))):
        table.add(record)
        if record.status == "ok":
            if (key := (record.task, record.strategy)) not in packed:
                packed[key] = PackedCell()
            packed[key].add(number, record.turns)
    frame = table.frame()
    ok = (frame["status"] == "ok").to_numpy()
    sums = {name: np.where(ok & (name != "ttft"), 0.0, NAN) for name in (*SUMS, "ttft")}
    for cell in packed.values():
        _fill(sums, cell.cell())
    text_only = np.array(table.text_only, dtype=bool)
    for name in ("tokens", *COUNTS):
        sums[name][text_only] = NAN
    frame = frame.assign(**sums)
    timed = frame[["tokens", "seconds"]].where((frame[["tokens", "seconds"]] > 0).all(axis=1)).astype(float)
    return Raw(frame.assign(log_speed=np.log(timed["tokens"]) - np.log(timed["seconds"])), packed)


class PackedCell:
    """The turns and steps of one cell in the narrowest integer types, so that a large run fits in memory."""

    def __init__(self) -> None:
        self.samples, self.lengths, self.first = array("q"), array("q"), array("b")
        self.stops, self.prompts = list[str](), array("q")
        self.steps = {name: array(_code(name)) for name in Steps.model_fields}  # not packed yet
        self.packed: dict[str, list[NDArray[Any]]] = {name: [] for name in Steps.model_fields}

    def add(self, number: int, turns: list[Turn]) -> None:
        """Add the turns of the sample in row `number`; lists of another length than `tokens` count as unknown."""
        for index, turn in enumerate(turns):
            count = len(turn.steps.tokens)
            self.samples.append(number)
            self.lengths.append(count)
            self.first.append(not index)
            self.stops.append(sys.intern(turn.stop))
            self.prompts.append(turn.prompt_tokens)
            for name, column in self.steps.items():
                values = getattr(turn.steps, name)
                column.fromlist(values if len(values) == count else [UNKNOWN] * count)
        if len(self.steps["tokens"]) >= PACKED:
            self._pack()

    def cell(self) -> Cell:
        """Return the tables of the cell."""
        self._pack()
        lengths = np.array(self.lengths)
        ends = lengths.cumsum()
        steps = {name: _known(np.concatenate(parts).astype(np.dtype(_code(name)), copy=False))
                 for name, parts in self.packed.items() if parts}
        steps = steps or {name: EMPTY.steps[name].to_numpy() for name in self.packed}
        place = np.arange(lengths.sum()) - np.repeat(ends - lengths, lengths)
        return Cell(pd.DataFrame({"sample": np.array(self.samples), "first": np.array(self.first, dtype=bool),
                                  "stop": pd.Categorical(self.stops), "prompt_tokens": np.array(self.prompts)}),
                    pd.DataFrame({**steps, "turn": np.repeat(np.arange(len(lengths)), lengths), "place": place},
                                 copy=False))

    def _pack(self) -> None:
        for name, column in self.steps.items():
            if column:
                self.packed[name].append(_narrow(np.array(column)))
                self.steps[name] = array(column.typecode)


def _code(name: str) -> str:
    """Return the type code of a column of steps for `array` and numpy."""
    return "d" if name == "seconds" else "i"


def _narrow(values: NDArray[Any]) -> NDArray[Any]:
    """Return the values in the narrowest type; if all are equal, only one is stored."""
    if (values == values[0]).all():
        return np.broadcast_to(values[0], values.shape)
    if values.dtype.kind == "i":
        return values.astype(np.promote_types(np.min_scalar_type(values.min()), np.min_scalar_type(values.max())))
    return values


def _known(column: NDArray[Any]) -> NDArray[Any]:
    unknown = column == UNKNOWN
    return np.where(unknown, NAN, column) if unknown.any() else column


def has_text_only(turn: Turn) -> bool:
    """Return whether an answer has a text but no steps, because it was imported from a file without token counts."""
    return bool(turn.raw) and not turn.steps.tokens


class SampleColumns:
    """The columns of the table of samples of a model with these `sizes` while records are read."""

    def __init__(self, sizes: Sizes | None) -> None:
        self.sizes, self.computed = sizes, {name: array("d") for name in COLUMNS}
        self.names: dict[str, list[str]] = {name: [] for name in IDENTITY if name not in ("sample", "repeat")}
        self.whole = {name: array("q") for name in ("sample", "repeat")}
        self.numbers = {name: array("d") for name in NUMBERS if name not in (*SUMS, "ttft", "log_speed")}
        self.flags: dict[str, list[bool | float]] = {"cut": [], "truncated": []}
        self.text_only, self.ids = array("b"), list[Any]()
        self.scores: dict[str, array[float]] = {}

    def add(self, record: Record) -> None:
        """Add one record; equal names share one object."""
        for name, names in self.names.items():
            names.append(sys.intern(getattr(record, name) or ""))
        for name, whole in self.whole.items():
            whole.append(getattr(record, name))
        ok = record.status == "ok"
        self._add_numbers(record if ok else None)
        for name, value in sums(record, self.sizes).items():
            self.computed[name].append(value)
        turns, stops = record.turns, {turn.stop for turn in record.turns}
        self.flags["cut"].append(any(turn.prompt_cut for turn in turns) if ok else NAN)
        self.flags["truncated"].append(NAN if "unknown" in stops or not ok else not stops.isdisjoint(LIMITS))
        self.text_only.append(ok and any(map(has_text_only, turns)))
        self.ids.append(_ids(turns) if ok else NAN)
        named = {f"counted_{name}": value for name, value in record.counted.items()}
        named |= {f"score_{name}": value for name, value in record.scores.items()}
        named |= {f"{sums_column(name)}{place}": value for name, values in record.sums.items()
                  for place, value in enumerate(values)}
        for name, value in named.items() if ok else ():
            column = self.scores.setdefault(name, array("d"))
            column.extend([NAN] * (len(self.ids) - 1 - len(column)))
            column.append(value)

    def _add_numbers(self, record: Record | None) -> None:
        for name, column in self.numbers.items():
            value = NAN if record is None else sum(getattr(turn, name) for turn in record.turns) \
                if name in OF_TURNS else getattr(record, name)
            column.append(NAN if value is None else value)

    def frame(self) -> pd.DataFrame:
        """Return the table, with NaN in the columns that are computed from steps."""
        rows, order = len(self.ids), [*IDENTITY, *NUMBERS, *COLUMNS, "cut", "truncated", "ids", *self.scores]
        if not rows:
            return pd.DataFrame(columns=IDENTITY).reindex(columns=order)
        columns: dict[str, Any] = {**self.names, **{name: np.array(column) for name, column in self.whole.items()}}
        columns |= {name: _whole(name, np.array(column)) for name, column in self.numbers.items()}
        columns |= {name: np.array(column) for name, column in self.computed.items()}
        scores = {name: np.append(column, [NAN] * (rows - len(column))) for name, column in self.scores.items()}
        frame = pd.DataFrame({**columns, **self.flags, **scores}).assign(ids=pd.Series(self.ids, dtype=object))
        return frame.reindex(columns=order)


def sums_column(name: str) -> str:
    """Return the start of the names of the columns that hold the statistics of a corpus metric."""
    return f"sum_{name}_"


def _whole(name: str, column: NDArray[np.float64]) -> NDArray[Any]:
    """Return a column of whole numbers as integers if all are known, else the column as it is."""
    return column.astype(np.int64) if name in WHOLE and not np.isnan(column).any() else column


def _ids(turns: Sequence[Turn]) -> NDArray[np.int32] | None:
    """Return the token ids of all turns, each ended by `END_OF_TURN`; None if some are unknown."""
    if any(len(turn.tokens) < sum(turn.steps.tokens) or has_text_only(turn) for turn in turns):
        return None
    return np.array(list(chain.from_iterable((*turn.tokens, END_OF_TURN) for turn in turns)), dtype=np.int32)


def _fill(sums: dict[str, NDArray[np.float64]], cell: Cell) -> None:
    """Write the sums over the steps of each sample of a cell to its row."""
    rows, of_row = np.unique(cell.turns["sample"].to_numpy(), return_inverse=True)
    later, ones = cell.later, pd.Series(1, index=cell.steps.index)

    def put(name: str, of_turns: NDArray[np.float64]) -> None:
        sums[name][rows] = np.bincount(of_row, of_turns, len(rows))

    for name in ("tokens", *COUNTS):
        put(name, cell.per_turn(cell.steps[name]))
    for name in ("tokens", "seconds"):
        put(f"decode_{name}", cell.per_turn(later[name]))
    put("steps", cell.per_turn(ones))
    put("decode_steps", cell.per_turn(ones[later.index]))
    bursts = cell.bursts[cell.bursts["first"]]
    turns = cell.turns.iloc[bursts["turn"]]
    sums["ttft"][turns["sample"][turns["first"]]] = bursts["seconds"][turns["first"].to_numpy()]
