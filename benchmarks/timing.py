"""Contenders timed side by side: every round runs each of them once, in a rotating order."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.contenders import Contender, Sequences


@dataclass(frozen=True)
class Row:
    """One contender of one comparison.

    `tokens_per_second` and `ms_per_step` are medians over the rounds; `ratio` is its time per token divided by that of
    the comparison's first contender, the median over the rounds with the quartiles `low` and `high`; `same` counts
    sequences that equal the first contender's, of `texts`.
    """

    section: str
    contender: str
    tokens_per_second: float
    ratio: float
    low: float
    high: float
    same: int
    texts: int

    def data(self) -> dict[str, Any]:
        """Return the row for JSON."""
        return asdict(self)


def compare(section: str, contenders: Mapping[str, Contender], rounds: int) -> list[Row]:
    """Time all contenders against the first, after one warm-up of each."""
    first = {name: contender() for name, contender in contenders.items()}
    names, per_token = list(contenders), {name: list[float]() for name in contenders}
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.perf_counter()
            sequences = contenders[name]()
            per_token[name].append((time.perf_counter() - start) / _tokens(sequences))
    base = names[0]
    return [_row(section, name, per_token[name], per_token[base], first[name], first[base]) for name in names]


def _row(section: str, name: str, times: list[float], base: list[float], output: Sequences, others: Sequences) -> Row:
    low, middle, high = quartiles([a / b for a, b in zip(times, base, strict=True)])
    return Row(section, name, 1 / statistics.median(times), middle, low, high,
               sum(a == b for a, b in zip(output, others, strict=False)), min(len(output), len(others)))


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Return first quartile, median and third quartile; three times the same number when there is only one."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _tokens(sequences: Sequences) -> int:
    return sum(map(len, sequences))
