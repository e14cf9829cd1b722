"""Several continuations of one text as one tree, their common starts read once."""

from collections.abc import Iterable, Sequence

from harness.decoding.tree import ROOT, TokenTree


def branches(paths: Iterable[Sequence[int]], limit: int) -> TokenTree:
    """The tree of all `paths` (token ids), at most `limit` levels deep; siblings in order of first appearance."""
    tokens, parents, known = list[int](), list[int](), dict[tuple[int, int], int]()
    for path in paths:
        node = ROOT
        for token in path[:limit]:
            if (node, token) not in known:
                known[node, token] = len(tokens)
                tokens.append(token)
                parents.append(node)
            node = known[node, token]
    return TokenTree(tuple(tokens), tuple(parents))
