"""A tree search over the trigrams of a sequence (ADED, 2407.12021, section 3)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log, sqrt
from typing import NamedTuple

from harness.decoding.loop import Step
from harness.engine.random_stream import Stream
from harness.engine.tree import EMPTY, TokenTree
from strategies.drafters.trie import trie

MAX_WEIGHT, SUCCESSORS = 3.0, 12  # the highest weight, and the number of successors considered
C1, C2 = 32.0, 8.0          # how much PUCT trusts the weights
Pair = tuple[int, int]


class Size(NamedTuple):
    """The size of a search: the knobs of the method."""

    iterations: int
    depth: int
    choices: int
    budget: int
    window: int
    bump: float


class Trigrams:
    """The counts of each token after each pair, and the gains of its weight."""

    def __init__(self) -> None:
        self.counts, self.gained = dict[Pair, dict[int, int]](), dict[Pair, dict[int, float]]()

    def count(self, pair: Pair, token: int) -> None:
        """Count `token` after `pair`."""
        counts = self.counts.setdefault(pair, {})
        counts[token] = counts.get(token, 0) + 1

    def gain(self, pair: Pair, token: int, bump: float) -> None:
        """Raise the weight of `token` after `pair`, at most to MAX_WEIGHT."""
        gains = self.gained.setdefault(pair, {})
        gains[token] = min(gains.get(token, 0.0) + bump, MAX_WEIGHT)

    def weights(self, pair: Pair) -> list[tuple[int, float]]:
        """Return the successors of the highest weights, best first; a weight is the share of counts plus the gain."""
        counts, gained = self.counts.get(pair, {}), self.gained.get(pair, {})
        total = sum(counts.values())
        weights = [(token, min(count / total + gained.get(token, 0.0), MAX_WEIGHT)) for token, count in counts.items()]
        return sorted(weights, key=lambda successor: -successor[1])[:SUCCESSORS]


@dataclass(slots=True)
class Node:
    """A path of the search: its last two tokens, its weight and chance, its visits and the sum of their rewards."""

    pair: Pair
    weight: float = 1.0
    chance: float = 1.0
    visits: int = 0
    score: float = 0.0
    children: "list[Node] | None" = None

    def value(self, parent: int) -> float:
        """Compute PUCT, given the visits of the parent."""
        mean = self.score / self.visits if self.visits else 0.0
        return mean + (C1 + log((parent + C2 + 1) / C2)) * self.weight * sqrt(parent) / (1 + self.visits)


@dataclass
class Search:
    """Drafts the most visited paths of a tree search over `trigrams`."""

    size: Size
    trigrams: Trigrams
    stream: Stream
    seen: int = 2
    cached: dict[Pair, list[tuple[int, float]]] = field(default_factory=dict)

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a tree of at most `budget` nodes and `limit` levels; empty when the last two tokens are new."""
        for end in range(self.seen, len(sequence)):
            self.trigrams.count((sequence[end - 2], sequence[end - 1]), sequence[end])
        for end in range(max(2, len(sequence) - self.size.window), len(sequence)):
            self.trigrams.gain((sequence[end - 2], sequence[end - 1]), sequence[end], self.size.bump)
        self.seen, self.cached = max(2, len(sequence)), {}
        if len(sequence) < 2 or not self.after((sequence[-2], sequence[-1])):
            return EMPTY
        paths = self.visited(self.searched(Node((sequence[-2], sequence[-1]))))
        return trie([self.longer(path, sequence[-1]) for path in paths], self.size.budget, limit)

    def after(self, pair: Pair) -> list[tuple[int, float]]:
        """Return the weights after `pair`, cached for a step."""
        if pair not in self.cached:
            self.cached[pair] = self.trigrams.weights(pair)
        return self.cached[pair]

    def searched(self, root: Node) -> Node:
        """Run all rounds: descend by PUCT to a new node, sample a path below it, and add its chance on the way back."""
        for _ in range(self.size.iterations):
            path = [root]
            while path[-1].children and len(path) <= self.size.depth:
                parent = path[-1]
                path.append(max(path[-1].children, key=lambda child: child.value(parent.visits)))
            end = path[-1]
            if end.children is None and len(path) <= self.size.depth:
                total = sum(weight for _, weight in self.after(end.pair))
                end.children = [Node((end.pair[1], token), weight, end.chance * weight / total)
                                for token, weight in self.after(end.pair)]
            reward = self.reward(end, self.size.depth + 1 - len(path))
            for node in path:
                node.visits, node.score = node.visits + 1, node.score + reward
        return root

    def reward(self, node: Node, levels: int) -> float:
        """Return the chance of the path to `node` and a sampled one below, `levels` deep while trigrams are known."""
        pair, chance = node.pair, node.chance
        for _ in range(levels):
            left = total = sum(weight for _, weight in self.after(pair))
            for successor in self.after(pair):
                if self.stream.coin(successor[1] / left):
                    break
                left -= successor[1]
            else:
                return chance
            pair, chance = (pair[1], successor[0]), chance * successor[1] / total
        return chance

    def visited(self, root: Node) -> list[tuple[int, ...]]:
        """Return the `choices` most visited paths below `root`; of equal ones, the first in breadth-first order."""
        visits, todo = list[tuple[int, tuple[int, ...]]](), [(root, tuple[int, ...]())]
        for node, path in todo:
            visits += [(node.visits, path)] if path and node.visits else []
            todo += [(child, (*path, child.pair[1])) for child in node.children or ()]
        return [path for _, path in sorted(visits, key=lambda pair: -pair[0])[:self.size.choices]]

    def longer(self, path: tuple[int, ...], before: int) -> tuple[int, ...]:
        """Return `path` with its likeliest next token."""
        following = self.after((path[-2] if len(path) > 1 else before, path[-1]))
        return (*path, following[0][0]) if following else path
