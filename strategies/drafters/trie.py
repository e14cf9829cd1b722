"""Many candidate continuations as one tree, and one tree below another."""

import sys
from collections.abc import Iterable, Sequence

from harness.engine.tree import ROOT, TokenTree, depths


def trie(paths: Iterable[Sequence[int]], max_nodes: int = sys.maxsize, limit: int = sys.maxsize) -> TokenTree:
    """Merge `paths` of token ids, the best first, into a tree of at most `max_nodes` nodes and `limit` levels.

    Common prefixes are drafted once; siblings are in the order of the paths.
    """
    nodes, tokens, parents = dict[tuple[int, int], int](), list[int](), list[int]()
    for path in paths:
        node = ROOT
        for token in path[:limit]:
            if (node, token) not in nodes:
                if len(tokens) == max_nodes:
                    return TokenTree(tuple(tokens), tuple(parents))
                nodes[node, token] = len(tokens)
                tokens.append(token)
                parents.append(node)
            node = nodes[node, token]
    return TokenTree(tuple(tokens), tuple(parents))


def levels(tree: TokenTree) -> int:
    """Return the number of levels of a tree."""
    return max(depths(tree.parents), default=0)


def joined(above: TokenTree, below: TokenTree, root: int) -> TokenTree:
    """Return the tree `above` with another one below its node `root`."""
    def node(own: int) -> int:
        return root if own == ROOT else len(above) + own
    return TokenTree((*above.tokens, *below.tokens), (*above.parents, *map(node, below.parents)),
                     {**above.probs, **{node(own): q for own, q in below.probs.items()}})
