"""The best shape of a draft tree of a given size, from how often a sibling of each rank is the one accepted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

Shape = tuple[tuple[int, ...], ...]
"""For each level, how many children each node of the level above has, in order; the level above the first is the text.
"""


@lru_cache(maxsize=256)
def plan(rates: tuple[float, ...], nodes: int, depth: int) -> tuple[Shape, float]:
    """The shape of at most `nodes` nodes and `depth` levels that commits most tokens a step, and how many it expects.

    `rates[b]` > 0 is the chance that the (b+1)-th sibling is the accepted one; the text's own next token counts one.
    Sequoia's dynamic program (2402.12374, §3.1): T[m][l][b] for m nodes with the root, l levels and b children there.
    """
    tables = _tables(rates, nodes, depth)
    best = tables[depth].max(0)
    size = int(best.argmax())
    levels: list[list[int]] = [[] for _ in range(depth)]
    row = [(size, depth)]
    for level in levels:
        below = list[tuple[int, int]]()
        for m, left in row:
            children = _children(tables, rates, m, left)
            level.append(len(children))
            below += [(child, left - 1) for child in children]
        row = below
    return tuple(tuple(level) for level in levels if any(level)), float(best[size])


def most_tokens(rates: Sequence[float], nodes: int, depth: int) -> NDArray[np.float64]:
    """(nodes + 2,) the most tokens a step expects of exactly m nodes, root included; −∞ where no such tree exists."""
    found: NDArray[np.float64] = _tables(tuple(rates), nodes, depth)[depth].max(0)
    return found


@dataclass(frozen=True)
class Size:
    """A tree of at most `nodes` nodes and `depth` levels commits `tokens` a step, which takes `seconds`."""

    nodes: int
    depth: int
    tokens: float
    seconds: float


def size(rates: Sequence[float], draft_time: float, verify_times: Mapping[int, float], most: int) -> Size:
    """The size of at most `most` levels with the least time a token: (d · t_draft + t_verify(m)) / T(m, d).

    `verify_times` are seconds by the tokens of a forward, one more than nodes; between them they grow linearly, and
    the largest ends the search. Sequoia (2402.12374, §3.3).
    """
    read = np.arange(2, max(verify_times) + 1)
    known = sorted(verify_times)
    verify = np.interp(read, known, [verify_times[m] for m in known])
    every = _tables(tuple(rates), int(read[-1]) - 1, most)[1:]
    tokens = np.maximum.accumulate(np.array([table.max(0)[2:] for table in every]), axis=1)
    seconds = np.arange(1, most + 1)[:, None] * draft_time + verify
    d, m = divmod(int((seconds / tokens).argmin()), len(read))
    return Size(int(read[m]) - 1, d + 1, float(tokens[d, m]), float(seconds[d, m]))


def fitted(rates: tuple[float, ...], draft: Mapping[int, float], verify: Mapping[int, float], most: int) -> Size:
    """`size` with the draft's time of a level as wide, on average, as those of the tree found last."""
    wide = [1]
    for _ in range(4):
        found = size(rates, fmean(np.interp(wide, sorted(draft), [draft[m] for m in sorted(draft)])), verify, most)
        shape, _ = plan(rates, found.nodes, found.depth)
        wide = [sum(map(bool, level)) for level in shape]
    return found


@lru_cache(maxsize=256)
def _tables(rates: tuple[float, ...], nodes: int, depth: int) -> tuple[NDArray[np.float64], ...]:
    """For each number of levels: (most children + 1, nodes + 2), the best tree of b children and m nodes."""
    size, widest = nodes + 2, min(len(rates), nodes)
    tables = list[NDArray[np.float64]]()
    for level in range(depth + 1):
        table = np.full((widest + 1, size), -np.inf)
        table[0, 1] = 1.0
        if level:
            child = tables[-1].max(0)
            for b in range(1, widest + 1):
                for m in range(b + 1, size):
                    table[b, m] = (table[b - 1, 1:m] + rates[b - 1] * child[m - 1:0:-1]).max()
        tables.append(table)
    return tuple(tables)


def _children(tables: tuple[NDArray[np.float64], ...], rates: tuple[float, ...], m: int, levels: int) -> list[int]:
    """How many nodes each child of the root of the best tree of `m` nodes has, itself included, first child first."""
    if m == 1:
        return []
    table, child = tables[levels], tables[levels - 1].max(0)
    found = list[int]()
    for b in range(int(table[:, m].argmax()), 0, -1):
        rest = 1 + int((table[b - 1, 1:m] + rates[b - 1] * child[m - 1:0:-1]).argmax())
        found.append(m - rest)
        m = rest
    return found[::-1]
