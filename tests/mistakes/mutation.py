"""A mistake that can be planted in the project."""

from typing import NamedTuple


class Mutation(NamedTuple):
    """A mistake: `old` occurs once in `file` and is replaced by `new`; `tests` are what must then fail."""

    why: str
    file: str
    old: str
    new: str
    tests: str
