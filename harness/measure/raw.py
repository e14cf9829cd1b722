"""All records of a run as flat tables, read once: what every figure of it is computed from."""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.measure.judged import records
from harness.store.folder import Store
from harness.store.schema import Record, Steps, Turn

NAN = float("nan")
COUNTS = ("forwards", "positions", "drafted", "accepted", "draft_forwards", "draft_positions")
IDENTITY = ["task", "example", "strategy", "sample", "repeat", "status", "error", "category"]
SUMS = ["tokens", *COUNTS, "steps", "decode_tokens", "decode_steps", "decode_seconds"]
NUMBERS = ["seconds", "prompt_tokens", "prompt_shared", "batch", "padding", "started", "block", "peak_bytes", "ttft",
           "log_speed", *SUMS]
END_OF_TURN = -1  # stands between the token ids of two turns
UNKNOWN = -1  # a count that another tool did not note


@dataclass(frozen=True)
class Cell:
    """The turns and steps of the samples of one task and strategy that succeeded, in the order they ran.

    `turns` has the row of its `sample` in `Raw.samples`, whether it is the answer's `first`, why it did `stop`, and its
    `prompt_tokens`.
    `steps` has the columns of `Steps` (times in seconds), the row of its `turn`, and its `place` in it from 0.
    """

    turns: pd.DataFrame
    steps: pd.DataFrame

    @property
    def later(self) -> pd.DataFrame:
        """The steps after the first of each turn, which reads the prompt and drafts nothing."""
        return self.steps[self.steps["place"] > 0]

    @cached_property
    def bursts(self) -> pd.DataFrame:
        """One row for each step that kept a token: its `turn`, its `tokens`, and the `seconds` since the last ones.

        The first of a turn waits from the start of the turn. Steps that kept nothing count as waiting.
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
        """The sum over each turn of a column of `steps`, or of a part of it."""
        turn = self.steps["turn"].to_numpy()[values.index.to_numpy()]
        return np.bincount(turn, values.to_numpy(), len(self.turns)).astype(float)


EMPTY = Cell(pd.DataFrame({"sample": [], "first": [], "stop": [], "prompt_tokens": []}).astype({"sample": int,
                                                                                               "first": bool}),
             pd.DataFrame({name: np.empty(0, float if name == "seconds" else int)
                           for name in (*Steps.model_fields, "turn", "place")}))


@dataclass(frozen=True)
class Raw:
    """A run as tables: one row a sample in the order they ran, and the turns and steps of each (task, strategy)."""

    samples: pd.DataFrame
    cells: Mapping[tuple[str, str], Cell]

    def cell(self, task: str, strategy: str) -> Cell:
        """The turns and steps of one task and strategy; empty when none was run."""
        return self.cells.get((task, strategy), EMPTY)


def read(store: Store) -> Raw:
    """Read every record once; a failed sample has NaN for every number, and no turns.

    What is not known of an imported answer is NaN too: counts of its steps, its tokens when it has only a text.
    """
    rows, found = list[dict[str, Any]](), dict[tuple[str, str], _Column]()
    for number, record in enumerate(records(store)):
        rows.append(_row(record))
        if record.status == "ok":
            if (key := (record.task, record.strategy)) not in found:
                found[key] = _Column()
            found[key].add(number, record.turns)
    frame = pd.DataFrame(rows, columns=None if rows else IDENTITY)
    scores = [str(column) for column in frame if str(column).startswith(("score_", "counted_"))]
    frame = frame.reindex(columns=[*IDENTITY, *NUMBERS, "cut", "truncated", "untold", "ids", *scores])
    cells = {key: column.cell() for key, column in found.items()}
    ok = (frame["status"] == "ok").to_numpy()
    sums = {name: np.where(ok & (name != "ttft"), 0.0, NAN) for name in (*SUMS, "ttft")}
    for cell in cells.values():
        _fill(sums, cell)
    untold = frame.pop("untold").eq(True).to_numpy()
    for name in ("tokens", *COUNTS):
        sums[name][untold] = NAN
    frame = frame.assign(**sums)
    timed = frame[["tokens", "seconds"]].where((frame[["tokens", "seconds"]] > 0).all(axis=1)).astype(float)
    return Raw(frame.assign(log_speed=np.log(timed["tokens"]) - np.log(timed["seconds"])), cells)


class _Column:
    """The steps of one cell while they are read: numbers side by side; a list of another length is unknown."""

    def __init__(self) -> None:
        self.samples, self.lengths, self.first = array("q"), array("q"), list[bool]()
        self.stops, self.prompts = list[str](), array("q")
        self.steps = {name: array("d" if name == "seconds" else "i") for name in Steps.model_fields}

    def add(self, number: int, turns: list[Turn]) -> None:
        for place, turn in enumerate(turns):
            count = len(turn.steps.tokens)
            self.samples.append(number)
            self.lengths.append(count)
            self.first.append(not place)
            self.stops.append(turn.stop)
            self.prompts.append(turn.prompt_tokens)
            for name, column in self.steps.items():
                values = getattr(turn.steps, name)
                column.fromlist(values if len(values) == count else [UNKNOWN] * count)

    def cell(self) -> Cell:
        lengths = np.array(self.lengths)
        ends = lengths.cumsum()
        steps = {name: _known(np.frombuffer(column, column.typecode)) for name, column in self.steps.items() if column}
        steps = steps or {name: EMPTY.steps[name].to_numpy() for name in self.steps}
        place = np.arange(lengths.sum()) - np.repeat(ends - lengths, lengths)
        return Cell(pd.DataFrame({"sample": np.array(self.samples), "first": self.first,
                                  "stop": pd.Categorical(self.stops), "prompt_tokens": np.array(self.prompts)}),
                    pd.DataFrame({**steps, "turn": np.repeat(np.arange(len(lengths)), lengths), "place": place},
                                 copy=False))


def _known(column: NDArray[Any]) -> NDArray[Any]:
    unknown = column == UNKNOWN
    return np.where(unknown, NAN, column) if unknown.any() else column


def untold(turn: Turn) -> bool:
    """Whether an answer has a text and no steps: it was imported from a file that does not count tokens."""
    return bool(turn.raw) and not turn.steps.tokens


def _row(record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(record, name) for name in IDENTITY}
    row["error"] = record.error or ""
    if record.status == "failed":
        return row
    turns = record.turns
    row |= {
        "seconds": record.seconds, "batch": record.batch, "padding": record.padding,
        "started": record.started, "block": record.block,
        "peak_bytes": NAN if record.peak_bytes is None else record.peak_bytes,
        "prompt_tokens": sum(turn.prompt_tokens for turn in turns),
        "prompt_shared": sum(turn.prompt_shared for turn in turns),
        "cut": any(turn.prompt_cut for turn in turns),
        "truncated": NAN if any(turn.stop == "unknown" for turn in turns) else
        any(turn.stop in ("length", "context") for turn in turns),
        "untold": any(map(untold, turns)),
        "ids": None if any(len(turn.tokens) < sum(turn.steps.tokens) or untold(turn) for turn in turns) else
        np.array([token for turn in turns for token in (*turn.tokens, END_OF_TURN)], dtype=np.int64),
    }
    row |= {f"counted_{name}": value for name, value in record.counted.items()}
    return row | {f"score_{name}": value for name, value in record.scores.items()}


def _fill(sums: dict[str, NDArray[np.float64]], cell: Cell) -> None:
    """Put the sums over the steps of each sample of a cell into its row."""
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
