"""Answers that end in a loop: they draft themselves, so tokens per step are many whatever the method is."""

from itertools import chain

import numpy as np
from numpy.typing import NDArray

from harness.measure.raw import END_OF_TURN, NAN, Cell, Raw
from harness.scoring.variety import repetitive


def loop_figures(cell: Cell, raw: Raw) -> dict[str, float]:
    """Return the share of answers (turns) that end in a loop of tokens, and the tokens per step of the others.

    Both are NaN if no token ids are known.
    """
    ends = looping(cell, raw)
    later, known = cell.later, ~np.isnan(ends)
    if not known.any():
        return {"loops": NAN, "tau_unlooped": NAN}
    tokens, steps = cell.per_turn(later["tokens"]), cell.per_turn(later["place"] > 0)
    others = ends == 0
    return {"loops": float(ends[known].mean()),
            "tau_unlooped": float(tokens[others].sum() / steps[others].sum()) if steps[others].any() else NAN}


def looping(cell: Cell, raw: Raw) -> NDArray[np.float64]:
    """Return for each turn of a cell 1 if its tokens before EOS end in a loop (`repetitive`), 0 if not, NaN if unknown.
    """
    samples = cell.turns["sample"].drop_duplicates()
    turns = list(chain.from_iterable(_turns(ids, int(count)) for ids, count in zip(
        raw.samples["ids"].iloc[samples], cell.turns["sample"].value_counts()[samples], strict=True)))
    return np.array([NAN if ids is None else float(repetitive(ids[:-1] if stop == "eos" else ids))
                     for ids, stop in zip(turns, cell.turns["stop"], strict=True)])


def _turns(ids: object, count: int) -> list[list[int] | None]:
    """Return the token ids of each of a sample's `count` turns, None where they are unknown."""
    if not isinstance(ids, np.ndarray):
        return [None] * count
    ends = np.flatnonzero(ids == END_OF_TURN)
    return [part[part != END_OF_TURN].tolist() for part in np.split(ids, ends + 1)[:count]]
