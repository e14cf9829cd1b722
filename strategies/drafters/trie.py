"""Many candidate continuations as one tree."""

import sys
from collections.abc import Iterable, Sequence

from harness.engine.tree import ROOT, TokenTree


def trie(paths: Iterable[Sequence[int]], most: int = sys.maxsize, limit: int = sys.maxsize) -> TokenTree:
    """The tree of `paths` (token ids below the text), the most wanted first, cut at `most` nodes and `limit` levels.

    Common starts are drafted once; siblings stand in the order of the paths.
    """
    nodes, tokens, parents = dict[tuple[int, int], int](), list[int](), list[int]()
    for path in paths:
        node = ROOT
        for token in path[:limit]:
            if (node, token) not in nodes:
                if len(tokens) == most:
                    return TokenTree(tuple(tokens), tuple(parents))
                nodes[node, token] = len(tokens)
                tokens.append(token)
                parents.append(node)
            node = nodes[node, token]
    return TokenTree(tuple(tokens), tuple(parents))
