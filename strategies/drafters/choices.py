"""A tree whose nodes are ranks: "the second best token at depth 1, and below it the best one at depth 2"."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate

from harness.engine.tree import ROOT

RARE = 1e-4  # the least probability of a rank


@dataclass(frozen=True)
class Choices:
    """`nodes[i]` is the (depth, rank) of node i, both from 0, and `parents[i]` its parent; shallow nodes first."""

    nodes: tuple[tuple[int, int], ...]
    parents: tuple[int, ...]

    @cached_property
    def widest(self) -> int:
        """The number of candidates that are needed of a depth."""
        return 1 + max(rank for _, rank in self.nodes)

    def within(self, levels: int) -> "Choices":
        """Return the nodes of the first `levels` depths."""
        count = sum(depth < levels for depth, _ in self.nodes)
        return self if count == len(self.nodes) else Choices(self.nodes[:count], self.parents[:count])


def best_choices(ranks: Sequence[Sequence[float]], count: int) -> Choices:
    """Return the tree of `count` nodes with the most accepted tokens, if depths are independent.

    `ranks[depth][rank]` is the probability that the candidate of this rank is right when all before it were
    (Medusa, §2.3.3). A node's value is the product along its path; the best `count` paths are a tree. A rank that was
    never right counts a little, and none counts more than the one before it.
    """
    return _kept(tuple(tuple(accumulate((max(share, RARE) for share in row), min)) for row in ranks), count)


def likeliest_choices(ranks: Sequence[Sequence[float]], count: int) -> Choices:
    """Return `best_choices` for ranks of one step, all of them positive and none above the one before it."""
    chosen, waiting = list[tuple[int, ...]](), list[tuple[float, int, tuple[int, ...]]]([(-ranks[0][0], 1, (0,))])
    while waiting and len(chosen) < count:
        value, _, path = heapq.heappop(waiting)
        chosen.append(path)
        depth, rank = len(path) - 1, path[-1]
        if rank + 1 < len(ranks[depth]):
            sibling = value * ranks[depth][rank + 1] / ranks[depth][rank]
            heapq.heappush(waiting, (sibling, depth + 1, (*path[:-1], rank + 1)))
        if depth + 1 < len(ranks):
            heapq.heappush(waiting, (value * ranks[depth + 1][0], depth + 2, (*path, 0)))
    chosen.sort(key=lambda path: (len(path), path))
    places = {path: place for place, path in enumerate(chosen)}
    return Choices(tuple((len(path) - 1, path[-1]) for path in chosen),
                   tuple(places.get(path[:-1], ROOT) for path in chosen))


_kept = lru_cache(maxsize=64)(likeliest_choices)  # the shares of a card are the same at each step
