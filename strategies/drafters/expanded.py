"""Trees that a trained head grows, one forward of the head for each depth."""

from collections.abc import Iterable, Sequence

import torch

from harness.decoding.loop import Step
from harness.engine.tree import ROOT, TokenTree, visible
from harness.heads.expander import Expander
from strategies.drafters.choices import Choices
from strategies.drafters.trie import trie


class StaticTree:
    """Grows a tree of fixed choices: only nodes with children are read."""

    def __init__(self, expander: Expander, choices: Choices) -> None:
        self.expander, self.choices = expander, choices

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a tree of at most `limit` levels."""
        choices = self.choices.within(limit)
        seen, inner = visible(choices.parents), set(choices.parents)
        logits, states = self.expander.start(sequence)
        rows, tokens, grown = {ROOT: 0}, list[int](), list[int]()
        depth = 0
        while True:
            level = [node for node, (at, _) in enumerate(choices.nodes) if at == depth]
            best = logits.topk(choices.widest).indices.tolist()
            tokens += [best[rows[choices.parents[node]]][choices.nodes[node][1]] for node in level]
            below = [node for node in level if node in inner]
            if not below:
                return TokenTree(tuple(tokens), choices.parents)
            states = states[[rows[choices.parents[node]] for node in below]]
            grown += below
            depth += 1
            logits, states = self.expander.grow(states, [tokens[node] for node in below], depth,
                                                seen[below][:, torch.tensor(grown)])
            rows = {node: row for row, node in enumerate(below)}


class Growth:
    """A tree that grows level by level: children below the nodes that the head has read, then some of them are read.

    `values[i]` is the logarithm of the product of the head's probabilities on the way to node i.
    """

    def __init__(self, expander: Expander, sequence: Sequence[int]) -> None:
        self.expander, self.depth = expander, 0
        self.tokens, self.parents, self.values = list[int](), list[int](), list[float]()
        self._logits, self._states = expander.start(sequence)
        self._frontier, self._places, self._ways = [ROOT], 0, dict[int, list[int]]({ROOT: []})

    def children(self, count: int) -> list[int]:
        """Add the `count` most probable children of each node that was read last, and return them."""
        best = torch.log_softmax(self._logits, -1).topk(min(count, self._logits.shape[-1]))
        both = torch.stack([best.values.double(), best.indices.double()]).tolist()  # one transfer from the device
        first = len(self.tokens)
        for node, chances, words in zip(self._frontier, *both, strict=True):
            value = 0.0 if node == ROOT else self.values[node]
            self.tokens += map(int, words)
            self.parents += [node] * len(words)
            self.values += [value + chance for chance in chances]
        return list(range(first, len(self.tokens)))

    def read(self, nodes: Sequence[int]) -> None:
        """Read some of the children that were added last, so that they can get children."""
        rows = {node: row for row, node in enumerate(self._frontier)}
        states = self._states[[rows[self.parents[node]] for node in nodes]]
        self._ways |= {node: [*self._ways[self.parents[node]], self._places + row] for row, node in enumerate(nodes)}
        self._places += len(nodes)
        ancestors = torch.zeros(len(nodes), self._places, dtype=torch.bool)
        ways = [self._ways[node] for node in nodes]  # all of the same length
        ancestors.scatter_(1, torch.tensor(ways), True)
        self.depth, self._frontier = self.depth + 1, list(nodes)
        self._logits, self._states = self.expander.grow(states, [self.tokens[node] for node in nodes], self.depth,
                                                        ancestors)

    def best(self, nodes: Iterable[int], count: int) -> list[int]:
        """Return the `count` nodes of the highest values, the best first; of equal ones the first of `nodes`."""
        return sorted(nodes, key=self.values.__getitem__, reverse=True)[:count]

    def path(self, node: int) -> list[int]:
        """Return the tokens on the way to a node, its own last."""
        tokens = list[int]()
        while node != ROOT:
            tokens.append(self.tokens[node])
            node = self.parents[node]
        return tokens[::-1]

    def tree(self, nodes: Iterable[int]) -> TokenTree:
        """Return the tree of these nodes, among which are the parents of all."""
        kept = sorted(nodes)
        places = {node: place for place, node in enumerate(kept)} | {ROOT: ROOT}
        return TokenTree(tuple(self.tokens[node] for node in kept), tuple(places[self.parents[node]] for node in kept))


class DynamicTree:
    """Grows the `width` most probable nodes of each depth by `width` children, and keeps the `nodes` best of all.

    EAGLE-2 (Li et al. 2024, arXiv 2406.16858), §4: a node's value is the product of the drafter's probabilities on its
    path, which is near its chance of being accepted. The best nodes are a tree, because none is above its parent.
    """

    def __init__(self, expander: Expander, width: int, depth: int, nodes: int) -> None:
        self.expander, self.width, self.depth, self.nodes = expander, width, depth, nodes

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a tree of at most `limit` levels."""
        growth = Growth(self.expander, sequence)
        level = growth.children(self.width)
        for _ in range(1, min(self.depth, limit)):
            growth.read(growth.best(level, self.width))
            level = growth.children(self.width)
        return growth.tree(growth.best(range(len(growth.tokens)), self.nodes))


class PathTree:
    """Grows whole paths, and merges the `paths` most probable ones of the last level into a tree.

    `tops` lists level by level how many children a node gets; the `width` most probable nodes of a level get some.
    """

    def __init__(self, expander: Expander, tops: Sequence[int], width: int, paths: int) -> None:
        self.expander, self.tops, self.width, self.paths = expander, tops, width, paths

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a tree of at most `limit` levels."""
        growth = Growth(self.expander, sequence)
        level = growth.children(self.tops[0])
        for count in self.tops[1:limit]:
            growth.read(growth.best(level, self.width))
            level = growth.children(count)
        return trie(growth.path(node) for node in growth.best(level, self.paths))
