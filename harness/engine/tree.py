"""Candidate tokens below a sequence: a chain is a tree without forks, a beam the newest leaves of a growing forest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

ROOT = -1


@dataclass(frozen=True)
class TokenTree:
    """Nodes with parents before children; parent −1 is the end of the sequence.

    `tokens[i]` is the token id of node i and `parents[i]` its parent. `probs` maps a node (or −1) to the distribution
    (V,) from which its children were sampled, in sampling order; the children of a node without one were chosen
    deterministically.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    probs: Mapping[int, Tensor] = field(default_factory=dict)

    @classmethod
    def chain(cls, tokens: Sequence[int], probs: Sequence[Tensor] = ()) -> "TokenTree":
        """One path; `probs[i]` is the distribution (V,) from which `tokens[i]` was sampled."""
        return cls(tuple(tokens), tuple(range(-1, len(tokens) - 1)), {i - 1: q for i, q in enumerate(probs)})

    def __len__(self) -> int:
        return len(self.tokens)

    def children(self) -> dict[int, list[int]]:
        """Return the children of every inner node in ascending order."""
        children: dict[int, list[int]] = {}
        for node, parent in enumerate(self.parents):
            children.setdefault(parent, []).append(node)
        return children

    def path(self, node: int) -> list[int]:
        """Return the nodes from the top to `node`; empty for −1."""
        nodes: list[int] = []
        while node != ROOT:
            nodes.append(node)
            node = self.parents[node]
        return nodes[::-1]


    def spelling(self, tokens: Sequence[int]) -> list[int]:
        """Return the nodes from the top down whose tokens are the first of `tokens`, as many as there are."""
        children, path = self.children(), list[int]()
        for token in tokens:
            below = children.get(path[-1] if path else ROOT, ())
            if (node := next((child for child in below if self.tokens[child] == token), None)) is None:
                break
            path.append(node)
        return path


EMPTY = TokenTree()


@lru_cache(maxsize=512)
def depths(parents: tuple[int, ...]) -> tuple[int, ...]:
    """Return the depth of every node; children of the sequence have depth 1."""
    below: list[int] = []
    for parent in parents:
        below.append(1 if parent == ROOT else below[parent] + 1)
    return tuple(below)


@lru_cache(maxsize=512)
def visible(parents: tuple[int, ...]) -> Tensor:
    """Return a bool mask (N, N): each node attends to itself and its ancestors."""
    attended = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent != ROOT:
            attended[node] |= attended[parent]
    return attended


def additive(attended: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return an additive mask: zero where `attended` (bool) is true, the lowest number of `dtype` elsewhere."""
    return torch.zeros(attended.shape, dtype=dtype, device=device).masked_fill_(
        ~attended.to(device), torch.finfo(dtype).min)


@lru_cache(maxsize=128)
def tree_mask(new: int, parents: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """Return the additive mask (M + N, M + N) of M = `new` tokens of the sequence and a tree of N nodes below them.

    Tokens of the sequence attend causally, nodes to these tokens and to their own ancestors. Returns None for a chain,
    where all attention is causal.
    """
    if parents == tuple(range(ROOT, len(parents) - 1)):
        return None
    attended = torch.ones(new + len(parents), new + len(parents), dtype=torch.bool).tril_()
    attended[new:, new:] = visible(parents)
    return additive(attended, dtype, device)


class Prefixes(Sequence[list[int]]):
    """The token ids before each row of a `Reading`, built on access: the sequence, then the sequence plus each path."""

    def __init__(self, sequence: Sequence[int], tree: TokenTree) -> None:
        self._sequence, self._tree = sequence, tree

    def __len__(self) -> int:
        return 1 + len(self._tree)

    def __getitem__(self, row: int) -> list[int]:  # type: ignore[override]  # rows are never sliced
        return [*self._sequence, *(self._tree.tokens[node] for node in self._tree.path(row - 1))]
