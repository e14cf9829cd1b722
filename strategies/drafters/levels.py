"""A draft model grows a tree of candidates, one forward a level."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from harness.decoding.draw import Stream
from harness.decoding.loop import Step
from harness.decoding.session import Session
from harness.decoding.tree import ROOT, TokenTree
from harness.decoding.warp import Warp
from harness.errors import UserError


class Levels(ABC):
    """Reads the newest level of the tree in one forward, and asks `pick` for the next.

    `stream` is None where children are the likeliest tokens instead of drawn ones.
    """

    def __init__(self, session: Session, law: Warp, stream: Stream | None, depth: int) -> None:
        self.session, self.law, self.stream, self.depth = session, law, stream, depth

    @abstractmethod
    def pick(self, level: int, nodes: Sequence[int], q: Tensor) -> Sequence[tuple[int, int]]:
        """`(parent, token)` of the children of `nodes`, siblings in draw order; `q` (N, V) float64, a row a node."""

    def draft(self, text: Sequence[int], last: Step, limit: int) -> TokenTree:
        """A tree of at most `limit` levels below `text`."""
        tokens, parents, probs = list[int](), list[int](), dict[int, Tensor]()
        paths, places, nodes = {ROOT: list(text)}, {ROOT: ROOT}, [ROOT]
        self.session.follow(text)
        logits = self.session.read().logits
        for level in range(min(self.depth, limit)):
            q = torch.softmax(self.law(logits, [paths[node] for node in nodes]).double(), -1)
            chosen, first = self.pick(level, nodes, q), len(tokens)
            if self.stream is not None:
                probs |= {node: q[i] for i, node in enumerate(nodes)}
            for parent, token in chosen:
                paths[len(tokens)] = [*paths[parent], token]
                tokens.append(token)
                parents.append(parent)
            nodes = self.fertile(level + 1, range(first, len(tokens)))
            if not nodes or level + 1 == min(self.depth, limit):
                break
            logits = self.session.grow([tokens[n] for n in nodes], [places[parents[n]] for n in nodes]).logits[1:]
            places |= {node: len(places) - 1 + i for i, node in enumerate(nodes)}
        return TokenTree(tuple(tokens), tuple(parents), probs)

    def fertile(self, level: int, nodes: Sequence[int]) -> list[int]:
        """Those of the nodes of a level that shall have children."""
        return list(nodes)


class Shaped(Levels):
    """A tree of a fixed shape: `shape[l][i]` children below the i-th node of level l, the text being level 0.

    Children are the likeliest tokens, or draws: independent ones, or with `replace=False` each another token.
    """

    def __init__(self, session: Session, law: Warp, stream: Stream | None, shape: Sequence[Sequence[int]],
                 replace: bool) -> None:
        super().__init__(session, law, stream, len(shape))
        self.shape, self.replace, self.slots = shape, replace, {ROOT: 0}

    def pick(self, level: int, nodes: Sequence[int], q: Tensor) -> list[tuple[int, int]]:
        """As many children for each node as its place in the shape says; fewer where no other token is possible."""
        if level == 0:
            self.slots, self.count = {ROOT: 0}, 0
        widths, starts = self.shape[level], [0, *accumulate(self.shape[level])]
        best = q.topk(min(max(widths), q.shape[1])).indices.tolist() if self.stream is None else None
        found = list[tuple[int, int]]()
        for i, node in enumerate(nodes):
            slot = self.slots[node]
            tokens = best[i][:widths[slot]] if best else drawn(q[i], widths[slot], self.stream, self.replace)
            for rank, token in enumerate(tokens):
                self.slots[self.count] = starts[slot] + rank
                self.count += 1
                found.append((node, token))
        return found

    def fertile(self, level: int, nodes: Sequence[int]) -> list[int]:
        """Those whose place in the shape has children."""
        return [node for node in nodes if level < len(self.shape) and self.shape[level][self.slots[node]]]


def drawn(q: Tensor, count: int, stream: Stream | None, replace: bool) -> list[int]:
    """`count` tokens from `q` (V,), in draw order; without replacement fewer when no mass is left."""
    assert stream is not None
    if replace:
        return [stream.choose(q) for _ in range(count)]
    rest, found = q.clone(), list[int]()
    while len(found) < count and float(rest.sum()) > 0:
        found.append(stream.choose(rest))
        rest[found[-1]] = 0
    return found


def branching(text: str, most: int = 1024) -> list[list[int]]:
    """The shape of "4-2-1": four children of the text, two of each of these, one of each of those.

    Raises `UserError` when it is not such a list, or has more than `most` nodes.
    """
    try:
        widths = [int(part) for part in text.split("-")]
    except ValueError:
        widths = [0]
    if min(widths) < 1:
        raise UserError(f"'{text}' is no list of branchings; write the children of each level, such as 4-2-1.")
    counts = list(accumulate([1, *widths], lambda a, b: a * b))
    if sum(counts[1:]) > most:
        raise UserError(f"A tree of branchings {text} has {sum(counts[1:])} nodes; at most {most} are allowed.")
    return [[width] * count for width, count in zip(widths, counts, strict=False)]
