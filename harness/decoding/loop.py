"""The loop of every speculative method: draft a tree, verify it in one forward, accept a path, commit it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from harness.decoding.accept import Accept, follow, greedy
from harness.engine.hooks import ForwardHook
from harness.engine.logit_warps import Warp, identity
from harness.engine.random_stream import CopyingStream, PhiloxStream, Stream
from harness.engine.session import Reading, Session
from harness.engine.tree import EMPTY, Prefixes, TokenTree
from harness.plugins.strategy import Request


@dataclass(frozen=True)
class Step:
    """The last step: its tree, the target's output after every node, the accepted path and the token after it.

    `copied` holds the likeliest tokens of every row of `reading` if they are already on the host.
    """

    tree: TokenTree
    reading: Reading
    path: Sequence[int]
    token: int
    copied: Sequence[Sequence[int]] | None = None

    @property
    def best(self) -> list[int]:
        """The likeliest next token after every row of `reading`."""
        return self.reading.best if self.copied is None else [row[0] for row in self.copied]

    def top(self, k: int, rows: Sequence[int] | None = None) -> list[list[int]]:
        """The `k` likeliest next tokens, best first, after each of `rows` of `reading` (by default after every row)."""
        if rows is not None and not rows:
            return []
        if self.copied is not None:
            return [list(each[:k]) for each in (self.copied if rows is None else [self.copied[row] for row in rows])]
        best: list[list[int]] = _top(self.reading.logits if rows is None else self.reading.logits[rows], k).tolist()
        return best


def _top(logits: Tensor, k: int) -> Tensor:
    """(N, k) the likeliest tokens of each row (N, V), or all V of them, best first."""
    return logits.topk(min(k, logits.shape[-1])).indices


class Drafter(Protocol):
    """Proposes candidates below a sequence."""

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Return a tree of at most `limit` levels below `sequence` (token ids); `last` is the step that ended there."""
        ...


@runtime_checkable
class Predicting(Protocol):
    """A drafter that uses the `likeliest` (a number of) next tokens after every row of the last step."""

    likeliest: int


@runtime_checkable
class Ending(Protocol):
    """A drafter that learns from a sequence when it has ended."""

    def end(self) -> None:
        """End the sequence; called once, also when its decoding is broken off."""
        ...


@runtime_checkable
class Resuming(Protocol):
    """A drafter that has computed a part of the forward that verifies its draft.

    `verifying` is the hook that leaves this part out, None where the whole model verifies.
    """

    verifying: ForwardHook | None


def draft_and_verify(session: Session, drafter: Drafter, accept: Accept, request: Request,
                     warp: Warp = identity) -> Iterator[list[int]]:
    """Yield the tokens committed at each step.

    The first step is the prefill and drafts nothing, so time to first token and counts equal those of plain decoding.
    Drafts never exceed `request.max_new_tokens`. If the session keeps ranks, those of all tokens are added, except with
    `greedy`, which takes the first of each distribution.
    """
    try:
        yield from _steps(session, drafter, accept, request, warp)
    finally:
        if isinstance(drafter, Ending):
            drafter.end()


def _steps(session: Session, drafter: Drafter, accept: Accept, request: Request, warp: Warp) -> Iterator[list[int]]:
    sequence, last, tree = list(request.prompt), None, EMPTY
    likeliest = drafter.likeliest if isinstance(drafter, Predicting) else 0
    resuming = drafter if isinstance(drafter, Resuming) else None
    end = len(sequence) + request.max_new_tokens
    while True:
        if last is not None and (limit := end - len(sequence) - 1) > 0:
            tree = drafter.draft(sequence, last, limit)
        session.follow(sequence)
        hook = resuming.verifying if resuming and len(tree) else None
        reading, copied = session.read(tree, hook), None
        if accept is greedy and warp is identity:
            path, token = follow(tree, reading.best)
        else:
            stream = _copying(request.stream, reading, likeliest)
            path, token = accept(tree, warp(reading.logits, Prefixes(sequence, tree)), stream)
            copied = stream.copied if isinstance(stream, CopyingStream) else None
        session.keep(path)
        new = [*(tree.tokens[node] for node in path), token]
        if session.kept_ranks is not None and accept is not greedy:
            session.kept_ranks += zip(new, reading.ranks([0, *(1 + node for node in path)], new), strict=True)
        sequence = [*sequence, *new]
        last, tree = Step(tree, reading, path, token, copied), EMPTY
        yield new


def _copying(stream: Stream, reading: Reading, likeliest: int) -> Stream:
    """The same stream; on a GPU its choice copies the `likeliest` next tokens of every row in the same transfer."""
    if not likeliest or not isinstance(stream, PhiloxStream) or reading.logits.device.type == "cpu":
        return stream
    return CopyingStream(stream, _top(reading.logits, likeliest))


class _NoDraft:
    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        return EMPTY


def one_by_one(session: Session, accept: Accept, request: Request, warp: Warp = identity) -> Iterator[list[int]]:
    """Decode autoregressively: the same loop without drafts."""
    return draft_and_verify(session, _NoDraft(), accept, request, warp)
