"""One problem of the corpus."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One problem: raw user prompts, a reference completion for each, and data for the scorer (as JSON)."""

    id: str
    turns: tuple[str, ...]
    answers: tuple[str, ...]
    check: dict[str, object]
