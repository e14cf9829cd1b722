"""Candidate tokens below a committed sequence: which are in the KV cache, where, and what each attends to."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.engine.forward import ForwardRows
from harness.engine.tree import ROOT, TokenTree, visible


@dataclass
class Candidates:
    """Nodes of a growing forest that are computed but not committed, in cache slots behind the sequence.

    `parents` of −1 stand for the end of the sequence. `slots` names the node in each slot. `retained` are the nodes
    that may get children, and `visible` (retained, slots) says which slots each attends to.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    retained: list[int] = field(default_factory=list)
    visible: Tensor = field(default_factory=lambda: visible(()))
    _newest: tuple[Sequence[int], ForwardRows] | None = None

    @classmethod
    def of(cls, tree: TokenTree, output: ForwardRows) -> "Candidates":
        """All nodes of a tree, computed in one forward."""
        nodes = range(len(tree))
        return cls(list(tree.tokens), list(tree.parents), list(nodes), list(nodes), visible(tree.parents),
                   (nodes, output))

    def visible_to(self, parents: Sequence[int]) -> Tensor:
        """(N, slots + N) bool: the slots that N new nodes attend to, which are their ancestors' and their own."""
        old = len(self.slots)
        seen = torch.zeros(len(parents), old + len(parents), dtype=torch.bool)
        below = [i for i, parent in enumerate(parents) if parent != ROOT]
        if below:
            row_of = {node: row for row, node in enumerate(self.retained)}
            seen[below, :old] = self.visible[[row_of[parents[i]] for i in below], :old]
        seen[:, old:].fill_diagonal_(True)
        return seen

    def add(self, tokens: Sequence[int], parents: Sequence[int], seen: Tensor, output: ForwardRows) -> list[int]:
        """Add new nodes, which attend to `seen` (N, slots + N), in the next slots; returns their numbers."""
        nodes = list(range(len(self.tokens), len(self.tokens) + len(tokens)))
        self.tokens += tokens
        self.parents += parents
        self.slots += nodes
        self.retained = self.retained + nodes
        self.visible = torch.cat([torch.nn.functional.pad(self.visible, (0, len(tokens))), seen])
        self._newest = nodes, output
        return nodes

    def retain(self, nodes: Sequence[int]) -> list[int]:
        """Drop all but `nodes` and their ancestors; the slots to be gathered, none while few are unused."""
        row_of = {node: row for row, node in enumerate(self.retained)}
        self.visible = self.visible[[row_of[node] for node in nodes]]
        self.retained = list(nodes)
        used = self.visible.any(0)
        count = int(used.sum())
        if len(self.slots) - count <= max(32, count):
            return []
        index = used.nonzero()[:, 0]
        kept: list[int] = index.tolist()
        self.visible = self.visible[:, index]
        self.slots = [self.slots[i] for i in kept]
        return kept

    def output_of(self, node: int) -> ForwardRows | None:
        """The output after a node of the latest forward, or None for an earlier node."""
        if self._newest is None or node not in self._newest[0]:
            return None
        row = self._newest[0].index(node)
        return self._newest[1].part(row, row + 1)
