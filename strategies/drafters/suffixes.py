"""A tree of all substrings up to a length with their counts, over one growing sequence or several."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

END = -1  # separates sequences; no token id


@dataclass(slots=True)
class Node:
    """A substring that occurs `count` ≥ 2 times.

    A child is a node, or, for a continuation that occurs once, the index of its token in the sequence.
    """

    count: int = 0
    children: "dict[int, Node | int]" = field(default_factory=dict)


class Substring(NamedTuple):
    """A substring and its length in tokens: a node, or the index of the last token of its only occurrence."""

    at: Node | int
    depth: int

    @property
    def times(self) -> int:
        """Return the number of occurrences."""
        return self.at.count if isinstance(self.at, Node) else 1


class SuffixTree:
    """Counts every substring of at most `depth` tokens.

    A substring that occurs once is only looked up in `sequence`, so that a token costs one step for each suffix
    that occurred before. The structure is SuffixDecoding's (2411.04975, section 4.1).
    """

    def __init__(self, depth: int) -> None:
        self.depth, self.sequence, self.root = depth, list[int](), Substring(Node(), 0)
        self._repeated = [self.root]  # suffixes that occur more than once, the shortest first

    def feed(self, tokens: Sequence[int]) -> None:
        """Append tokens to the sequence."""
        for token in tokens:
            self.sequence.append(token)
            self._repeated = [self.root, *[new for old in self._repeated if (new := self._count(old, token))]]

    def end(self) -> None:
        """End this sequence; the next `feed` starts another."""
        self.sequence.append(END)
        self._repeated = [self.root]

    def repeated(self) -> list[Substring]:
        """Return every non-empty suffix that occurs more than once, the shortest first."""
        return self._repeated[1:]

    def following(self, substring: Substring) -> Iterator[tuple[int, Substring]]:
        """Yield each token that follows a substring, and the substring extended by it."""
        if substring.depth < self.depth:
            if isinstance(substring.at, Node):
                for token, child in substring.at.children.items():
                    yield token, Substring(child, substring.depth + 1)
            elif substring.at + 1 < len(self.sequence) and self.sequence[substring.at + 1] != END:
                yield self.sequence[substring.at + 1], Substring(substring.at + 1, substring.depth + 1)

    def matches(self, substrings: Sequence[Substring], token: int) -> list[Substring]:
        """Extend each of `substrings` by `token` and return those that the tree contains."""
        return [new for substring in substrings if (new := self._after(substring, token))]

    def _after(self, substring: Substring, token: int) -> Substring | None:
        if substring.depth == self.depth:
            return None
        if isinstance(substring.at, Node):
            child = substring.at.children.get(token)
            return None if child is None else Substring(child, substring.depth + 1)
        at = substring.at + 1
        return Substring(at, substring.depth + 1) if at < len(self.sequence) and self.sequence[at] == token else None

    def _count(self, old: Substring, token: int) -> Substring | None:
        """Count the suffix `old` extended by the last token; None when that is new or too long."""
        assert isinstance(old.at, Node)
        if old.depth == self.depth:
            return None
        child = old.at.children.get(token)
        if child is None:
            old.at.children[token] = len(self.sequence) - 1
            return None
        if isinstance(child, int):
            at, child = child + 1, Node(1)
            if old.depth + 1 < self.depth and self.sequence[at] != END:
                child.children[self.sequence[at]] = at
            old.at.children[token] = child
        child.count += 1
        return Substring(child, old.depth + 1)
