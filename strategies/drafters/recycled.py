"""Drafts from a table of the likeliest successors of each token, filled during decoding."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from harness.decoding.loop import Step
from harness.engine.tree import ROOT, TokenTree

LEVELS = (8, 21, 25, 15, 8, 3)  # nodes of each level of the paper's tree of 80


class Place(NamedTuple):
    """A node of the template: successor `rank` of `parent`, which is a place before it or −1, `depth` levels down."""

    parent: int
    rank: int
    depth: int


Table = dict[int, list[int]]
"""The likeliest successors of every token met so far, best first."""


@cache
def template(nodes: int, k: int) -> tuple[Place, ...]:
    """The static tree of `nodes` nodes with ranks below `k`, level by level.

    The sizes of the levels are those of the paper's tree, scaled to `nodes`; what does not fit into a level goes to
    the next. In each level stand the paths of the lowest product of (rank + 1), which gives the paper's first two
    levels exactly (Token Recycling, 2408.08696, section 3.2).
    """
    places, above, wanted = list[Place](), [(1, ROOT)], 0
    for size in LEVELS:
        wanted += size
        if room := -(-nodes * wanted // sum(LEVELS)) - len(places):
            depth = 1 + (places[above[0][1]].depth if places else 0)
            ways = sorted((cost * (rank + 1), parent, rank) for cost, parent in above for rank in range(k))[:room]
            above = [(cost, len(places) + i) for i, (cost, _, _) in enumerate(ways)]
            places += [Place(parent, rank, depth) for _, parent, rank in ways]
    return tuple(places)


class Recycler:
    """Fills the template from the table below the last token; what is not known yet is not drafted.

    `table` is filled in place, by every token that was read, accepted or not; the last row read wins.
    """

    def __init__(self, nodes: int, k: int, table: Table) -> None:
        self.nodes, self.k, self.table = nodes, k, table

    def draft(self, text: Sequence[int], last: Step, limit: int) -> TokenTree:
        """A tree of at most `nodes` nodes and `limit` levels below `text`."""
        self.learn(text, last)
        tokens, parents, node_of = list[int](), list[int](), dict[int, int]()
        for number, place in enumerate(template(self.nodes, self.k)):
            if place.depth > limit:
                break
            parent = node_of.get(place.parent, ROOT)
            if parent == ROOT != place.parent:
                continue
            known = self.table.get(tokens[parent] if parent != ROOT else text[-1], ())
            if place.rank < len(known):
                node_of[number] = len(tokens)
                tokens.append(known[place.rank])
                parents.append(parent)
        return TokenTree(tuple(tokens), tuple(parents))

    def learn(self, text: Sequence[int], last: Step) -> None:
        """Keep the `k` likeliest successors of every token that the step before `text` read."""
        logits = last.reading.logits
        rows = logits.topk(min(self.k, logits.shape[-1])).indices.tolist()
        self.table.update(zip([text[-2 - len(last.path)], *last.tree.tokens], rows, strict=True))
