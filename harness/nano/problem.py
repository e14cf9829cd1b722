"""What one problem of the corpus is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One problem: raw user prompts, a reference completion for each, and what a scorer needs (JSON-able)."""

    id: str
    turns: tuple[str, ...]
    answers: tuple[str, ...]
    check: dict[str, object]
