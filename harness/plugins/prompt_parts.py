"""What a task knows about the make-up of a text prompt, for strategies that use more than its text."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Span(NamedTuple):
    """A range of characters, `end` excluded."""

    start: int
    end: int

    def of(self, text: str) -> str:
        """Return these characters of a text."""
        return text[self.start:self.end]


class Edit(NamedTuple):
    """A change of a text: the characters `span` of the text before all edits become `text`."""

    span: Span
    text: str


@dataclass(frozen=True)
class PromptParts:
    """Parts of a prompt; all are empty if nothing is known.

    `earlier` is a prompt that the model may have read before, which the `edits`, from left to right, turn into the
    prompt. `members` are characters of the prompt whose order does not matter, next to each other. `passages` are all
    possible answers.
    """

    earlier: str = ""
    edits: tuple[Edit, ...] = ()
    members: tuple[Span, ...] = ()
    passages: Sequence[str] = ()


PLAIN = PromptParts()


def orders(members: Sequence[str], count: int, seed: str) -> list[tuple[str, ...]]:
    """Return different orders of at least three members: forward, reversed, and random ones up to `count` in all."""
    found = list(itertools.permutations(members))
    return [found[0], found[-1], *random.Random(seed).sample(found[1:-1], count - 2)]


def places(prompt: str, members: Sequence[str]) -> tuple[Span, ...]:
    """Return where different members are in a prompt, from left to right; each has a blank before it."""
    starts = sorted((prompt.rindex(f" {one}"), len(one)) for one in members)
    return tuple(Span(start, start + 1 + size) for start, size in starts)


def edited(text: str, edits: Sequence[Edit]) -> str:
    """Return a text after its edits, which do not overlap and go from left to right."""
    for (start, end), new in reversed(edits):
        text = text[:start] + new + text[end:]
    return text
