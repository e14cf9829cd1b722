"""Greedy decoding with a hook that changes each forward after that of the prompt."""

from collections.abc import Callable, Iterator
from itertools import count

from harness.engine.hooks import ForwardHook
from harness.engine.session import Session
from harness.engine.tree import EMPTY
from harness.plugins.strategy import Request


def greedily(session: Session, request: Request, hook: Callable[[int], ForwardHook | None]) -> Iterator[list[int]]:
    """Yield the likeliest token of each step; its forward gets `hook(step)`, and step 0 computes the prompt."""
    sequence = list(request.prompt)
    for step in count():
        session.follow(sequence)
        sequence += session.read(EMPTY, hook(step)).best
        yield sequence[-1:]


def forget(session: Session) -> None:
    """Let the session compute the next prompt from its first token, without what it or others have in the cache.

    For hooks that read the whole prompt, or whose tokens lack the keys of layers that the next prompt reads.
    """
    session.follow(())
    session.shares_prefixes = False
