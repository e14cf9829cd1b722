"""Candidate tokens below a text: a chain is a tree without forks, a beam the newest leaves of a growing forest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

ROOT = -1


@dataclass(frozen=True)
class TokenTree:
    """Nodes with parents before children; parent −1 is the end of the text.

    `tokens[i]` is node i's token id, `parents[i]` its parent. `probs` maps a node (or −1) to the distribution (V,)
    that its children were drawn from, in the order they were drawn; a node that is absent chose its children
    deterministically.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    probs: Mapping[int, Tensor] = field(default_factory=dict)

    @classmethod
    def chain(cls, tokens: Sequence[int], probs: Sequence[Tensor] = ()) -> "TokenTree":
        """One path; `probs[i]` is the distribution (V,) that `tokens[i]` was drawn from."""
        return cls(tuple(tokens), tuple(range(-1, len(tokens) - 1)), {i - 1: q for i, q in enumerate(probs)})

    def __len__(self) -> int:
        return len(self.tokens)

    def children(self) -> dict[int, list[int]]:
        """The children of every node that has some, in sibling order."""
        found: dict[int, list[int]] = {}
        for node, parent in enumerate(self.parents):
            found.setdefault(parent, []).append(node)
        return found

    def path(self, node: int) -> list[int]:
        """The nodes from the top to `node`; empty for −1."""
        nodes: list[int] = []
        while node != ROOT:
            nodes.append(node)
            node = self.parents[node]
        return nodes[::-1]


EMPTY = TokenTree()


@lru_cache(maxsize=512)
def depths(parents: tuple[int, ...]) -> tuple[int, ...]:
    """The depth of every node; children of the text have depth 1."""
    found: list[int] = []
    for parent in parents:
        found.append(1 if parent == ROOT else found[parent] + 1)
    return tuple(found)


@lru_cache(maxsize=512)
def visible(parents: tuple[int, ...]) -> Tensor:
    """(N, N) bool: whether the row's node may look at the column's node (itself or an ancestor)."""
    seen = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent != ROOT:
            seen[node] |= seen[parent]
    return seen


def additive(seen: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zero where `seen` (bool) is true, the lowest number of `dtype` elsewhere."""
    return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen.to(device), torch.finfo(dtype).min)


@lru_cache(maxsize=128)
def block(unread: int, parents: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """(U + N, U + N) additive: the unread text reads causally, every node sees that text and its own ancestors.

    None for a chain, where everything sees all that stands before it.
    """
    if parents == tuple(range(ROOT, len(parents) - 1)):
        return None
    seen = torch.ones(unread + len(parents), unread + len(parents), dtype=torch.bool).tril_()
    seen[unread:, unread:] = visible(parents)
    return additive(seen, dtype, device)


class Prefixes(Sequence[list[int]]):
    """The text before each row of a reading, made only when asked for: the text, then the text and each path."""

    def __init__(self, text: Sequence[int], tree: TokenTree) -> None:
        self._text, self._tree = text, tree

    def __len__(self) -> int:
        return 1 + len(self._tree)

    def __getitem__(self, row: int) -> list[int]:  # type: ignore[override]  # rows are never sliced
        return [*self._text, *(self._tree.tokens[node] for node in self._tree.path(row - 1))]
