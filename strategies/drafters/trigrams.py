"""A tree search over the trigrams of a text (ADED, 2407.12021, section 3)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log, sqrt
from typing import NamedTuple

from harness.decoding.loop import Step
from harness.engine.random_stream import Stream
from harness.engine.tree import EMPTY, TokenTree
from strategies.drafters.trie import trie

MOST, SUCCESSORS = 3.0, 12  # the highest weight, and successors looked at
C1, C2 = 32.0, 8.0          # how much PUCT trusts the weights
Pair = tuple[int, int]


class Size(NamedTuple):
    """How large a search is: the knobs of the method."""

    iterations: int
    depth: int
    choices: int
    budget: int
    window: int
    bump: float


class Trigrams:
    """How often each token followed each pair, and what its weight has gained since."""

    def __init__(self) -> None:
        self.counts, self.gained = dict[Pair, dict[int, int]](), dict[Pair, dict[int, float]]()

    def count(self, pair: Pair, token: int) -> None:
        """Note that `token` followed `pair`."""
        found = self.counts.setdefault(pair, {})
        found[token] = found.get(token, 0) + 1

    def gain(self, pair: Pair, token: int, bump: float) -> None:
        """Make `token` more likely after `pair`."""
        found = self.gained.setdefault(pair, {})
        found[token] = min(found.get(token, 0.0) + bump, MOST)

    def weights(self, pair: Pair) -> list[tuple[int, float]]:
        """The successors of the highest weights, best first: its share of the counts and what it gained."""
        counts, gained = self.counts.get(pair, {}), self.gained.get(pair, {})
        total = sum(counts.values())
        found = [(token, min(count / total + gained.get(token, 0.0), MOST)) for token, count in counts.items()]
        return sorted(found, key=lambda way: -way[1])[:SUCCESSORS]


@dataclass(slots=True)
class Node:
    """A path of the search: its last two tokens, its weight and chance, and what came of visits to it."""

    pair: Pair
    weight: float = 1.0
    chance: float = 1.0
    visits: int = 0
    score: float = 0.0
    children: "list[Node] | None" = None

    def value(self, parent: int) -> float:
        """PUCT, given the visits of the parent."""
        mean = self.score / self.visits if self.visits else 0.0
        return mean + (C1 + log((parent + C2 + 1) / C2)) * self.weight * sqrt(parent) / (1 + self.visits)


@dataclass
class Search:
    """Drafts the most visited paths of a tree search over `known`."""

    size: Size
    known: Trigrams
    stream: Stream
    seen: int = 2
    ways: dict[Pair, list[tuple[int, float]]] = field(default_factory=dict)

    def draft(self, text: Sequence[int], last: Step, limit: int) -> TokenTree:
        """A tree of at most `budget` nodes and `limit` levels; empty when the last two tokens are new."""
        for end in range(self.seen, len(text)):
            self.known.count((text[end - 2], text[end - 1]), text[end])
        for end in range(max(2, len(text) - self.size.window), len(text)):
            self.known.gain((text[end - 2], text[end - 1]), text[end], self.size.bump)
        self.seen, self.ways = max(2, len(text)), {}
        if len(text) < 2 or not self.after((text[-2], text[-1])):
            return EMPTY
        paths = self.visited(self.searched(Node((text[-2], text[-1]))))
        return trie([self.longer(path, text[-1]) for path in paths], self.size.budget, limit)

    def after(self, pair: Pair) -> list[tuple[int, float]]:
        """The weights after `pair`, looked up once a step."""
        if pair not in self.ways:
            self.ways[pair] = self.known.weights(pair)
        return self.ways[pair]

    def searched(self, root: Node) -> Node:
        """`root` after all rounds: down by PUCT to a new node, a random path from there, and its chance back up."""
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
        """The chance of the path to `node` and of one drawn below it, `levels` deep or until nothing is known."""
        pair, chance = node.pair, node.chance
        for _ in range(levels):
            left = total = sum(weight for _, weight in self.after(pair))
            for way in self.after(pair):
                if self.stream.coin(way[1] / left):
                    break
                left -= way[1]
            else:
                return chance
            pair, chance = (pair[1], way[0]), chance * way[1] / total
        return chance

    def visited(self, root: Node) -> list[tuple[int, ...]]:
        """The `choices` most visited paths below `root`, the earlier found first when equal."""
        found, todo = list[tuple[int, tuple[int, ...]]](), [(root, tuple[int, ...]())]
        for node, path in todo:
            found += [(node.visits, path)] if path and node.visits else []
            todo += [(child, (*path, child.pair[1])) for child in node.children or ()]
        return [path for _, path in sorted(found, key=lambda way: -way[0])[:self.size.choices]]

    def longer(self, path: tuple[int, ...], before: int) -> tuple[int, ...]:
        """`path` and its likeliest next token."""
        following = self.after((path[-2] if len(path) > 1 else before, path[-1]))
        return (*path, following[0][0]) if following else path
