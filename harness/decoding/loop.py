"""The one loop of every speculative method: draft a tree, read it in one forward, accept a path, commit it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from harness.decoding.accept import Accept, follow, greedy
from harness.engine.logit_warps import Warp, identity
from harness.engine.session import Reading, Session
from harness.engine.tree import EMPTY, Prefixes, TokenTree
from harness.plugins.strategy import Request


@dataclass(frozen=True)
class Step:
    """All that the last step showed: the tree, what the target said of every node, and what was committed."""

    tree: TokenTree
    reading: Reading
    path: Sequence[int]
    token: int


class Drafter(Protocol):
    """Proposes candidates below a text."""

    def draft(self, text: Sequence[int], last: Step, limit: int) -> TokenTree:
        """A tree of at most `limit` levels below `text` (token ids); `last` is the step that ended there."""
        ...


def draft_and_verify(session: Session, drafter: Drafter, accept: Accept, request: Request,
                     warp: Warp = identity) -> Iterator[list[int]]:
    """Yield the tokens committed at each step.

    The first step reads the prompt and drafts nothing, so that time to first token and counts are those of plain
    decoding. Drafts never go past `request.max_new_tokens`.
    """
    text, last, tree = list(request.prompt), None, EMPTY
    end = len(text) + request.max_new_tokens
    while True:
        if last is not None and (limit := end - len(text) - 1) > 0:
            tree = drafter.draft(text, last, limit)
        session.follow(text)
        reading = session.read(tree)
        if accept is greedy and warp is identity:
            path, token = follow(tree, reading.best)
        else:
            path, token = accept(tree, warp(reading.logits, Prefixes(text, tree)), request.stream)
        session.keep(path)
        new = [*(tree.tokens[node] for node in path), token]
        text = [*text, *new]
        last, tree = Step(tree, reading, path, token), EMPTY
        yield new


class _NoDraft:
    def draft(self, text: Sequence[int], last: Step, limit: int) -> TokenTree:
        return EMPTY


def one_by_one(session: Session, accept: Accept, request: Request, warp: Warp = identity) -> Iterator[list[int]]:
    """Plain autoregressive decoding: the same loop without drafts."""
    return draft_and_verify(session, _NoDraft(), accept, request, warp)
