"""Candidate tokens below a committed sequence: their slots in the KV cache and what each attends to."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.engine.forward import ForwardRows
from harness.engine.tree import ROOT, TokenTree, visible


@dataclass
class Candidates:
    """Nodes of a growing forest that are computed but not committed, in cache slots behind the sequence.

    A parent of −1 is the end of the sequence. `slots` holds the node in each slot, `retained` the nodes that may get
    children, and `visible` (retained, slots) marks the slots that each of them attends to.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    retained: list[int] = field(default_factory=list)
    visible: Tensor = field(default_factory=lambda: visible(()))
    _newest: tuple[Sequence[int], ForwardRows] | None = None

    @classmethod
    def of(cls, tree: TokenTree, output: ForwardRows) -> "Candidates":
        """Return the candidates of a tree that was computed in one forward pass."""
        nodes = range(len(tree))
        return cls(list(tree.tokens), list(tree.parents), list(nodes), list(nodes), visible(tree.parents),
                   (nodes, output))

    def visible_to(self, parents: Sequence[int]) -> Tensor:
        """Return a bool mask (N, slots + N) of the slots that N new nodes attend to: their ancestors' and their own."""
        old = len(self.slots)
        attended = torch.zeros(len(parents), old + len(parents), dtype=torch.bool)
        below = [i for i, parent in enumerate(parents) if parent != ROOT]
        if below:
            row_of = {node: row for row, node in enumerate(self.retained)}
            attended[below, :old] = self.visible[[row_of[parents[i]] for i in below], :old]
        attended[:, old:].fill_diagonal_(True)
        return attended

    def add(self, tokens: Sequence[int], parents: Sequence[int], attended: Tensor, output: ForwardRows) -> list[int]:
        """Add new nodes, which attend to `attended` (N, slots + N), in the next slots; returns their numbers."""
        nodes = list(range(len(self.tokens), len(self.tokens) + len(tokens)))
        self.tokens += tokens
        self.parents += parents
        self.slots += nodes
        self.retained = self.retained + nodes
        self.visible = torch.cat([torch.nn.functional.pad(self.visible, (0, len(tokens))), attended])
        self._newest = nodes, output
        return nodes

    def retain(self, nodes: Sequence[int]) -> list[int]:
        """Drop all nodes but `nodes` and their ancestors; returns the slots to gather, none while few are unused."""
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
        """Return the output after a node of the latest forward, or None for an earlier node."""
        if self._newest is None or node not in self._newest[0]:
            return None
        row = self._newest[0].index(node)
        return self._newest[1].part(row, row + 1)
