"""TR-Jacobi: a tree of the model's predictions after its own unconfirmed guesses, and one chain from the text.

Wang et al. 2024, Make Some Noise (arXiv 2406.17404, §3.3); the decoding side alone, for any model. Row d of a table
holds the `k` likeliest tokens for the d-th place, `depth` rows in all, taken where the last step's best path was not
confirmed; rows that nothing is known of are filled with tokens drawn from the text. The tree takes the `nodes` places
of the table that are likeliest when a token of rank r is right in proportion to 1/(1 + r)² and each further place in
one case of four (the authors fix a tree of 63 nodes). `retrieval` adds what followed the longest match, of at most
`max_ngram` tokens, with the text's end. The trained models of the paper expect noise in their input; others accept
less. `temperature` and `p` set the distribution, which is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import heappop, heappush
from typing import ClassVar

import torch

from harness.decoding.loop import Step
from harness.decoding.verified import Verified
from harness.engine.random_stream import Stream
from harness.engine.session import Session
from harness.engine.tree import ROOT, TokenTree
from harness.plugins.strategy import Request, knob
from strategies.drafters.ngram import NgramLookup
from strategies.drafters.trie import trie


@lru_cache(maxsize=64)
def shape(k: int, depth: int, nodes: int) -> tuple[tuple[int, ...], ...]:
    """The likeliest paths of ranks, parents first and at most `nodes`: (0, 2) is the third token below the first."""
    chosen = list[tuple[int, ...]]()
    heap: list[tuple[int, tuple[int, ...]]] = [(1, (0,))]
    while heap and len(chosen) < nodes:
        odds, path = heappop(heap)  # one in so many
        chosen.append(path)
        rank = path[-1]
        if len(path) < depth:
            heappush(heap, (4 * odds, (*path, 0)))
        if rank + 1 < k:
            heappush(heap, (odds // (rank + 1)**2 * (rank + 2)**2, (*path[:-1], rank + 1)))
    return tuple(chosen)


def tail(last: Step) -> list[int]:
    """The first path below the last accepted node: the nodes of the best path that were not accepted."""
    children, nodes = last.tree.children(), list[int]()
    node = last.path[-1] if last.path else ROOT
    while node in children:
        node = children[node][0]
        nodes.append(node)
    return nodes


class Table:
    """Candidates for the next places, carried from step to step, and the text's own continuation."""

    def __init__(self, k: int, depth: int, nodes: int, lookup: NgramLookup | None, stream: Stream) -> None:
        self.k, self.depth, self.nodes, self.lookup, self.stream = k, depth, nodes, lookup, stream
        self.likeliest = k

    def draft(self, text: Sequence[int], last: Step, limit: int) -> TokenTree:
        """A tree at most `limit` deep."""
        depth = min(self.depth, limit)
        rows = last.top(self.k, [node + 1 for node in tail(last)])[:depth]
        rows += [self._noise(text) for _ in range(depth - len(rows))]
        paths = [[row[rank] for row, rank in zip(rows, ranks, strict=False)]
                 for ranks in shape(self.k, depth, self.nodes)
                 if all(rank < len(row) for row, rank in zip(rows, ranks, strict=False))]
        if self.lookup:
            paths.append(self.lookup.lookup(text))
        return trie(paths, limit=depth)

    def _noise(self, text: Sequence[int]) -> list[int]:
        """Tokens drawn from the text, each once."""
        even = torch.ones(len(text))
        return list(dict.fromkeys(text[self.stream.choose(even)] for _ in range(self.k)))


@dataclass(frozen=True)
class TrJacobi(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    k: int = knob(10, "candidates for each place", low=1, high=256, sweep=(5, 10))
    depth: int = knob(5, "places guessed at", low=1, high=32, sweep=(3, 5, 8))
    nodes: int = knob(63, "nodes of the tree, without the chain", low=1, high=512, sweep=(16, 31, 63))
    retrieval: bool = knob(True, "add a chain looked up in the text", sweep=(False, True))
    max_ngram: int = knob(3, "longest n-gram looked up, in tokens", low=1, high=16)

    paper: ClassVar[str] = "Wang et al. 2024, arXiv 2406.17404"

    def drafter(self, session: Session, request: Request) -> Table:
        """The model itself, one step ago."""
        lookup = NgramLookup(self.max_ngram, self.depth, latest=True) if self.retrieval else None
        return Table(self.k, self.depth, self.nodes, lookup, request.stream)
