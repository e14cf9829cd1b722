"""The best shape of a draft tree of a given size, given the acceptance rate of the sibling of each rank."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

Shape = tuple[tuple[int, ...], ...]
"""For each level, the number of children of each node of the level above, in order; the first is the root's level.
"""


@lru_cache(maxsize=256)
def plan(rates: tuple[float, ...], nodes: int, depth: int) -> tuple[Shape, float]:
    """Find the shape of at most `nodes` nodes and `depth` levels with the most expected tokens a step, and that number.

    `rates[b]` > 0 is the chance that the (b+1)-th sibling is accepted; the target's own next token counts as one.
    Sequoia's dynamic program (2402.12374, §3.1): T[m][l][b] for m nodes with the root, l levels and b children of it.
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
    """Return (nodes + 2,) the most expected tokens a step of m nodes with the root; −∞ if no such tree exists."""
    tokens: NDArray[np.float64] = _tables(tuple(rates), nodes, depth)[depth].max(0)
    return tokens


@dataclass(frozen=True)
class Size:
    """A tree of at most `nodes` nodes and `depth` levels, its expected `tokens` a step and `seconds` a step."""

    nodes: int
    depth: int
    tokens: float
    seconds: float


def size(rates: Sequence[float], draft_time: float, verify_times: Mapping[int, float], limit: int) -> Size:
    """Return the size with the least time a token, (d · t_draft + t_verify(m)) / T(m, d), of at most `limit` levels.

    `verify_times` maps tokens of a forward, one more than nodes, to seconds; times between are interpolated, and
    the largest ends the search. Sequoia (2402.12374, §3.3).
    """
    sizes = np.arange(2, max(verify_times) + 1)
    known = sorted(verify_times)
    verify = np.interp(sizes, known, [verify_times[m] for m in known])
    tables = _tables(tuple(rates), int(sizes[-1]) - 1, limit)[1:]
    tokens = np.maximum.accumulate(np.array([table.max(0)[2:] for table in tables]), axis=1)
    seconds = np.arange(1, limit + 1)[:, None] * draft_time + verify
    d, m = divmod(int((seconds / tokens).argmin()), len(sizes))
    return Size(int(sizes[m]) - 1, d + 1, float(tokens[d, m]), float(seconds[d, m]))


def fitted(rates: tuple[float, ...], draft: Mapping[int, float], verify: Mapping[int, float], limit: int) -> Size:
    """Return `size` with the draft time of a level of the average width of the tree that it chooses."""
    widths = [1]
    for _ in range(4):
        best = size(rates, fmean(np.interp(widths, sorted(draft), [draft[m] for m in sorted(draft)])), verify, limit)
        shape, _ = plan(rates, best.nodes, best.depth)
        widths = [sum(map(bool, level)) for level in shape]
    return best


@lru_cache(maxsize=256)
def _tables(rates: tuple[float, ...], nodes: int, depth: int) -> tuple[NDArray[np.float64], ...]:
    """Compute for each number of levels (maximum children + 1, nodes + 2): the value of the best tree of b and m."""
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
    """Return the subtree sizes of the root's children in the best tree of `m` nodes, first child first."""
    if m == 1:
        return []
    table, child = tables[levels], tables[levels - 1].max(0)
    subtrees = list[int]()
    for b in range(int(table[:, m].argmax()), 0, -1):
        rest = 1 + int((table[b - 1, 1:m] + rates[b - 1] * child[m - 1:0:-1]).argmax())
        subtrees.append(m - rest)
        m = rest
    return subtrees[::-1]
