"""How the tokens of an answer came to be, from the counts of its steps."""

from functools import cache
from itertools import starmap
from operator import sub
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.store.schema import Steps, Turn

SMALLEST = 1e-9  # milliseconds
KINDS = {
    "a": "accepted draft", "b": "bonus after a draft that was accepted whole", "c": "the model's token where the draft "
    "was rejected", "o": "without a draft", "s": "chosen among candidates, as in a search",
}


def kinds(steps: Steps, drafts: bool = True) -> str:
    """Return one letter of `KINDS` for each token; empty if the steps are unknown.

    A step begins with its accepted drafts. The model's own token after them is a bonus if they reached a leaf of the
    draft, which older runs do not tell: then it is one if all drafted tokens were accepted. Unless the strategy
    `drafts`, drafted tokens are candidates among which it chooses.
    """
    if not (drafts and any(map(any, (steps.drafted, steps.accepted, steps.whole)))):
        return ("s" if any(steps.drafted) else "o") * sum(steps.tokens)
    count = len(steps.tokens)
    drafted, accepted = (column or [0] * count for column in (steps.drafted, steps.accepted))
    whole = steps.whole or [int(0 < one == other) for one, other in zip(accepted, drafted, strict=True)]
    return "".join(starmap(_letters, zip(steps.tokens, drafted, accepted, whole, strict=True)))


@cache
def _letters(kept: int, tried: int, taken: int, leaf: int) -> str:
    return "a" * min(kept, taken) + ("b" if leaf else "c" if tried else "o") * max(0, kept - taken)


def story(turn: Turn, drafts: bool) -> dict[str, Any]:
    """Return what the page shows of an answer's steps, without what can be left out.

    `kinds` has a letter for each token, `lengths` their numbers of characters, `tokens`, `drafted` and `accepted` the
    counts of each step (left out where all are 1 or 0), and `ms` its milliseconds. `ranks` are those of sampled tokens.
    """
    steps, told = turn.steps, dict[str, Any]()
    if not steps.tokens or sum(steps.tokens) != len(turn.tokens):
        return told
    told["kinds"] = kinds(steps, drafts)
    if turn.ends:
        told["lengths"] = list(map(sub, turn.ends, [0, *turn.ends]))
    if set(steps.tokens) != {1}:
        told["tokens"] = steps.tokens
    for name, column in (("drafted", steps.drafted), ("accepted", steps.accepted), ("ranks", turn.ranks)):
        if any(column):
            told[name] = column
    seconds = np.array(steps.seconds)
    if not np.isnan(seconds).any():
        told["ms"] = _three_digits(1000 * seconds)
    return told


def _three_digits(numbers: NDArray[np.float64]) -> list[float]:
    """Return numbers from 0 to 10⁷ with three significant digits, as the floats nearest to these."""
    units = 10 ** (2 - np.floor(np.log10(np.maximum(numbers, SMALLEST))))
    found: list[float] = (np.rint(numbers * units) / units).tolist()
    return found
