"""A tree of all substrings up to a length, with how often each occurs, over one growing text or several."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

END = -1  # stands between texts; no token


@dataclass(slots=True)
class Node:
    """A substring that occurs `count` ≥ 2 times.

    A child is a node, or, where one occurrence goes on alone, the index of the token by which it does.
    """

    count: int = 0
    children: "dict[int, Node | int]" = field(default_factory=dict)


class Place(NamedTuple):
    """A substring and its length in tokens: a node, or the index of the last token of its one occurrence."""

    at: Node | int
    depth: int

    @property
    def times(self) -> int:
        """How often it occurs."""
        return self.at.count if isinstance(self.at, Node) else 1


class SuffixTree:
    """Counts every substring of at most `depth` tokens.

    A substring that occurs once is not stored but read from the text, so that a token costs one step for each suffix
    that was met before. The structure is SuffixDecoding's (2411.04975, section 4.1).
    """

    def __init__(self, depth: int) -> None:
        self.depth, self.text, self.root = depth, list[int](), Place(Node(), 0)
        self._met = [self.root]  # suffixes of the text that occur more than once, the shortest first

    def feed(self, tokens: Sequence[int]) -> None:
        """Append tokens to the text."""
        for token in tokens:
            self.text.append(token)
            self._met = [self.root, *[place for old in self._met if (place := self._count(old, token))]]

    def end(self) -> None:
        """What is fed from now on is another text."""
        self.text.append(END)
        self._met = [self.root]

    def repeated(self) -> list[Place]:
        """Every suffix of the text, but for the empty one, that occurs more than once; the shortest first."""
        return self._met[1:]

    def following(self, place: Place) -> Iterator[tuple[int, Place]]:
        """Each token that stands after a substring, and the substring with it."""
        if place.depth < self.depth:
            if isinstance(place.at, Node):
                for token, child in place.at.children.items():
                    yield token, Place(child, place.depth + 1)
            elif place.at + 1 < len(self.text) and self.text[place.at + 1] != END:
                yield self.text[place.at + 1], Place(place.at + 1, place.depth + 1)

    def matches(self, places: Sequence[Place], token: int) -> list[Place]:
        """Those of the substrings `places` that are in the tree with `token` after them, so lengthened."""
        return [new for place in places if (new := self._after(place, token))]

    def _after(self, place: Place, token: int) -> Place | None:
        if place.depth == self.depth:
            return None
        if isinstance(place.at, Node):
            child = place.at.children.get(token)
            return None if child is None else Place(child, place.depth + 1)
        alone = place.at + 1
        return Place(alone, place.depth + 1) if alone < len(self.text) and self.text[alone] == token else None

    def _count(self, old: Place, token: int) -> Place | None:
        """Count the suffix `old` with the text's last token; None when that is new or too long."""
        assert isinstance(old.at, Node)
        if old.depth == self.depth:
            return None
        child = old.at.children.get(token)
        if child is None:
            old.at.children[token] = len(self.text) - 1
            return None
        if isinstance(child, int):
            alone, child = child + 1, Node(1)
            if old.depth + 1 < self.depth and self.text[alone] != END:
                child.children[self.text[alone]] = alone
            old.at.children[token] = child
        child.count += 1
        return Place(child, old.depth + 1)
