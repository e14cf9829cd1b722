"""Drafts from a table of the likeliest successors of each token, filled during decoding."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from harness.decoding.loop import Step
from harness.engine.tree import ROOT, TokenTree

LEVELS = (8, 21, 25, 15, 8, 3)  # nodes of each level of the paper's tree of 80


class TemplateNode(NamedTuple):
    """A node of the template, `depth` levels down: successor `rank` of `parent`, an earlier node or −1."""

    parent: int
    rank: int
    depth: int


Table = dict[int, list[int]]
"""The likeliest successors of every token seen so far, best first."""


@cache
def template(nodes: int, k: int) -> tuple[TemplateNode, ...]:
    """Build the static tree of `nodes` nodes with ranks below `k`, level by level.

    The sizes of the levels are those of the paper's tree, scaled to `nodes`; what does not fit into a level goes to
    the next. Each level holds the paths of the lowest product of (rank + 1), which gives the paper's first two
    levels exactly (Token Recycling, 2408.08696, section 3.2).
    """
    tree, above, total = list[TemplateNode](), [(1, ROOT)], 0
    for size in LEVELS:
        total += size
        if room := -(-nodes * total // sum(LEVELS)) - len(tree):
            depth = 1 + (tree[above[0][1]].depth if tree else 0)
            level = sorted((cost * (rank + 1), parent, rank) for cost, parent in above for rank in range(k))[:room]
            above = [(cost, len(tree) + i) for i, (cost, _, _) in enumerate(level)]
            tree += [TemplateNode(parent, rank, depth) for _, parent, rank in level]
    return tuple(tree)


class Recycler:
    """Fills the template from the table below the last token; unknown successors are not drafted.

    `table` is filled in place by the logits of every verified token, accepted or not; the latest ones win.
    """

    def __init__(self, nodes: int, k: int, table: Table) -> None:
        self.nodes, self.k, self.table, self.likeliest = nodes, k, table, k

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a tree of at most `nodes` nodes and `limit` levels below `sequence`."""
        self.learn(sequence, last)
        tokens, parents, node_of = list[int](), list[int](), dict[int, int]()
        for number, slot in enumerate(template(self.nodes, self.k)):
            if slot.depth > limit:
                break
            parent = node_of.get(slot.parent, ROOT)
            if parent == ROOT != slot.parent:
                continue
            successors = self.table.get(tokens[parent] if parent != ROOT else sequence[-1], ())
            if slot.rank < len(successors):
                node_of[number] = len(tokens)
                tokens.append(successors[slot.rank])
                parents.append(parent)
        return TokenTree(tuple(tokens), tuple(parents))

    def learn(self, sequence: Sequence[int], last: Step) -> None:
        """Store the `k` likeliest successors of every token that the last step verified."""
        self.table.update(zip([sequence[-2 - len(last.path)], *last.tree.tokens], last.top(self.k), strict=True))
