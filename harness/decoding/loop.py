"""The loop of every speculative method: draft a tree, verify it in one forward, accept a path, commit it."""

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
    """The last step: its tree, the target's logits and hidden states of every node, and the committed tokens."""

    tree: TokenTree
    reading: Reading
    path: Sequence[int]
    token: int


class Drafter(Protocol):
    """Proposes candidates below a sequence."""

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Return a tree of at most `limit` levels below `sequence` (token ids); `last` is the step that ended there."""
        ...


def draft_and_verify(session: Session, drafter: Drafter, accept: Accept, request: Request,
                     warp: Warp = identity) -> Iterator[list[int]]:
    """Yield the tokens committed at each step.

    The first step is the prefill and drafts nothing, so time to first token and counts equal those of plain decoding.
    Drafts never exceed `request.max_new_tokens`.
    """
    sequence, last, tree = list(request.prompt), None, EMPTY
    end = len(sequence) + request.max_new_tokens
    while True:
        if last is not None and (limit := end - len(sequence) - 1) > 0:
            tree = drafter.draft(sequence, last, limit)
        session.follow(sequence)
        reading = session.read(tree)
        if accept is greedy and warp is identity:
            path, token = follow(tree, reading.best)
        else:
            path, token = accept(tree, warp(reading.logits, Prefixes(sequence, tree)), request.stream)
        session.keep(path)
        new = [*(tree.tokens[node] for node in path), token]
        sequence = [*sequence, *new]
        last, tree = Step(tree, reading, path, token), EMPTY
        yield new


class _NoDraft:
    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        return EMPTY


def one_by_one(session: Session, accept: Accept, request: Request, warp: Warp = identity) -> Iterator[list[int]]:
    """Decode autoregressively: the same loop without drafts."""
    return draft_and_verify(session, _NoDraft(), accept, request, warp)
