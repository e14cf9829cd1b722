"""What the rows of a cache know of recurrent states: those after some of their slots, from which others are computed.

The state after some tokens is a function of what its mixers read of them. That is kept in the slots of each token, like
keys and values, so that the state after any tokens can be computed from an earlier one: from nothing else if need be.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from harness.engine.cache import SlotCache, SlotLayer
from harness.errors import Unsupported

NODES = 32   # states of candidates that a row keeps
MARKS = 2    # and states after several tokens at once: the ends of prompts
NEAR = 6     # and others, one for each power of two of the distance to the newest


class Place(NamedTuple):
    """The slots that a state has read: the first `prefix`, then `path`, in ascending order."""

    prefix: int
    path: tuple[int, ...] = ()

    @classmethod
    def of(cls, prefix: int, path: Sequence[int]) -> "Place":
        """Return a place in its only form: the prefix is as long as it can be."""
        count = 0
        while count < len(path) and path[count] == prefix + count:
            count += 1
        return cls(prefix + count, tuple(path[count:]))

    @property
    def end(self) -> int:
        """The first slot behind all of these."""
        return self.path[-1] + 1 if self.path else self.prefix

    def moved(self, sources: Sequence[int], start: int) -> "Place | None":
        """Return the place after slots `sources` were copied to those from `start` on; None if it lost a slot."""
        if self.end <= start:
            return self
        at = {source: start + index for index, source in enumerate(sources)}
        behind = [slot for slot in (*range(start, self.prefix), *self.path) if slot >= start]
        if any(slot not in at for slot in behind):
            return None
        before = [slot for slot in self.path if slot < start]
        return Place.of(min(self.prefix, start), [*before, *(at[slot] for slot in behind)])


class State:
    """The state of each mixer after some tokens: its number to tensors of a batch, and the row in them."""

    __slots__ = ("parts",)

    def __init__(self) -> None:
        self.parts = dict[int, tuple[tuple[Tensor | None, ...], int]]()


class RowStates:
    """The states of one row by their places."""

    def __init__(self) -> None:
        self.found, self.marks = dict[Place, State](), list[int]()

    def before(self, place: Place) -> tuple[State | None, list[int]]:
        """Return the latest state on the way to a place, None if there is none, and the slots from there on."""
        prefix, path = place
        for count in range(len(path), 0, -1):
            if (state := self.found.get(Place(prefix, path[:count]))) is not None:
                return state, list(path[count:])
        start = max((known.prefix for known in self.found if not known.path and known.prefix <= prefix), default=0)
        return self.found.get(Place(start)), [*range(start, prefix), *path]

    def cut(self, end: int) -> None:
        """Forget the states that have read a slot from `end` on."""
        self.found = {place: state for place, state in self.found.items() if place.end <= end}
        self.marks = [mark for mark in self.marks if mark <= end]

    def move(self, sources: Sequence[int], start: int) -> None:
        """Have the states after slots `sources` were copied to those from `start` on."""
        places = {place: place.moved(sources, start) for place in self.found}
        self.found = {after: self.found[place] for place, after in places.items() if after is not None}
        self.marks = [mark for mark in self.marks if Place(mark) in self.found]

    def copy(self, end: int) -> "RowStates":
        """Return a copy without the states that have read a slot from `end` on."""
        other = RowStates()
        other.found, other.marks = dict(self.found), list(self.marks)
        other.cut(end)
        return other

    def add(self, states: Mapping[Place, State], mark: int = 0) -> None:
        """Add states, and drop those that are the least needed; `mark` is the prefix of one that will be."""
        self.found |= states
        if mark:
            self.marks = [*self.marks, mark][-MARKS:]
        prefixes = sorted((place.prefix for place in self.found if not place.path), reverse=True)
        nearest = {(prefixes[0] - prefix).bit_length(): prefix for prefix in prefixes}  # of equal ones, the farthest
        kept = {*self.marks, *list(nearest.values())[:NEAR]}
        nodes = [place for place in self.found if place.path]
        self.found = {place: state for place, state in self.found.items()
                      if place in nodes[-NODES:] or (not place.path and place.prefix in kept)}


class StateCache(SlotCache):
    """A slot cache that also holds, in each slot, what every mixer reads of its token, and states of each row."""

    def __init__(self, layers: int, mixers: int, device: torch.device) -> None:
        super().__init__(layers + mixers, device)
        self.inputs: list[SlotLayer] = self.layers[layers:]
        self.states = dict[int, RowStates]()

    def row(self, index: int) -> RowStates:
        """Return the states of a row."""
        return self.states.setdefault(index, RowStates())

    def move(self, row: int, sources: Sequence[int], start: int) -> None:
        """Schedule a copy of slots, and let the states follow."""
        super().move(row, sources, start)
        self.row(row).move(sources, start)

    def copy(self, source: int, target: int, count: int) -> None:
        """Copy the first `count` slots of row `source` to row `target`, with the states after them."""
        super().copy(source, target, count)
        self.states[target] = self.row(source).copy(count)

    def change_keys(self, row: int, first: int, last: int, change: Callable[[int, Tensor], Tensor]) -> None:
        """Raise `Unsupported`, because what a mixer has read has no keys."""
        raise Unsupported("changes what attention sees of earlier tokens, and this model carries a state")

    change_values = change_keys

    def fill(self, row: int, contents: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Raise `Unsupported`, because a state has no keys and values."""
        raise Unsupported("gives keys and values of earlier tokens, and this model carries a state")
