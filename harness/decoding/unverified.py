"""Drafts that no forward of the target verifies, because a strategy decides about them in another way."""

from collections.abc import Sequence

from harness.engine.session import Session
from harness.engine.tree import TokenTree


def commit_draft(session: Session, tokens: Sequence[int], drafted: Sequence[int], accepted: bool) -> None:
    """Set the committed sequence to `tokens` and, if `accepted`, the draft model's tokens `drafted` after them.

    They count like a chain that was verified.
    """
    session.follow([*tokens, *drafted] if accepted else tokens)
    session.work.drafted += len(drafted)
    if session.kept_trees is not None and drafted:
        session.kept_trees.append((TokenTree.chain(drafted), list(range(len(drafted) if accepted else 0))))
    if accepted:
        session.work.accepted += len(drafted)
        session.work.whole += 1
