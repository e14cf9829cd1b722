"""Drafting from the text itself where an encoder reads the prompt: the source comes before the answer."""

from collections.abc import Sequence
from typing import Protocol

from harness.decoding.loop import Step
from harness.engine.session import Session
from harness.engine.tree import TokenTree


class TextDrafter(Protocol):
    """Drafts from the token ids of the text alone."""

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft below `sequence`."""
        ...

    def extend(self, sequence: Sequence[int], drafted: Sequence[int], limit: int) -> TokenTree:
        """Draft below `sequence` and the tokens `drafted` below it."""
        ...


class SourceFirst:
    """A drafter to which each sequence looks as if the source were the beginning of it."""

    def __init__(self, drafter: TextDrafter, source: Sequence[int]) -> None:
        self.drafter, self.source = drafter, list(source)

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft below the source and `sequence`."""
        return self.drafter.draft([*self.source, *sequence], last, limit)

    def extend(self, sequence: Sequence[int], drafted: Sequence[int], limit: int) -> TokenTree:
        """Draft below the source, `sequence` and the tokens `drafted` below it."""
        return self.drafter.extend([*self.source, *sequence], drafted, limit)


def with_source(session: Session, drafter: TextDrafter) -> TextDrafter:
    """Return a drafter that also drafts from the source of the session, if it has one."""
    return SourceFirst(drafter, session.source) if session.source else drafter
