"""Strategies that watch what another one writes, and end the answer or go back in it."""

from abc import abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from harness.decoding.penalty import without
from harness.engine.logit_warps import Warp
from harness.engine.session import Session
from harness.plugins.strategy import Over, Request

Bans = Mapping[int, int]
"""A token id that must not be written, by its place in the answer."""


class Verdict(NamedTuple):
    """What to do about an answer: keep its first `kept` tokens and go on with `bans`; with None it ends there."""

    kept: int
    bans: Bans | None = None


class Watcher(Protocol):
    """Watches one answer."""

    def read(self, answer: Sequence[int]) -> Sequence[int]:
        """Read the last token of the answer, and return the places that a later verdict may go back to.

        A place that a longer answer has must be among those of the answer one token shorter, or be that of its last
        token.
        """
        ...

    def verdict(self, answer: Sequence[int]) -> Verdict | None:
        """Return what to do about the answer just read, None to go on."""
        ...

    def cut(self, count: int) -> None:
        """Forget all but the first `count` tokens."""
        ...


class Answer:
    """The tokens so far, how many of them are yielded, and each set of bans with the place of its rewind.

    `free` has for each number of first tokens how many of them stay whatever comes: after a rewind, what was read
    before its place may be part of something else again.
    """

    def __init__(self, watcher: Watcher, kept: Sequence[int]) -> None:
        self.watcher, self.tokens, self.given = watcher, list[int](), len(kept)
        self.free, self.bans = [0], list[tuple[int, Bans]]()
        for token in kept:
            self.add(token)

    def add(self, token: int) -> None:
        """Add a token."""
        self.tokens.append(token)
        places = self.watcher.read(self.tokens)
        self.free.append(min([len(self.tokens), *(self.free[place] for place in places)]))

    def take(self) -> list[int]:
        """Return the tokens that are free and not yielded yet, which then count as yielded."""
        before, self.given = self.given, max(self.given, self.free[-1])
        return self.tokens[before:self.given]

    def go_back(self, kept: int, bans: Bans) -> None:
        """Keep the first tokens; the bans of rewinds to later places no longer hold.

        Tokens kept by an outer strategy stay; the first token after them is banned instead.
        """
        if kept < self.given:
            kept, bans = self.given, {self.given: self.tokens[self.given]}
        del self.tokens[kept:], self.free[kept + 1:]
        self.watcher.cut(kept)
        self.bans = [*((place, old) for place, old in self.bans if place <= kept), (kept, bans)]


class Watched(Over):
    """Runs another strategy under a `Watcher`; after a rewind, that strategy starts anew behind the tokens kept.

    Every token is looked at before it is yielded, one after the other, so that blocks of drafts are cut where single
    tokens would be. Tokens that may be taken back are held; a step that frees none yields an empty list, because its
    time counts. What the other strategy has learnt within the answer is lost at a rewind.
    """

    @abstractmethod
    def watcher(self, request: Request) -> Watcher | None:
        """Return the watcher of one answer, None if nothing is watched."""

    def generate(self, session: Session, request: Request) -> Iterator[Sequence[int]]:
        """Yield the tokens that stay, step by step, until the answer ends."""
        watcher = self.watcher(request)
        if watcher is None:
            yield from self.over.generate(session, request)
            return
        answer = Answer(watcher, request.prompt[request.start:])
        while verdict := (yield from self._watched(session, request, answer)):
            if verdict.bans is None:
                del answer.tokens[max(verdict.kept, answer.given):]
                break
            answer.go_back(verdict.kept, verdict.bans)
            yield answer.take()
        yield answer.tokens[answer.given:]

    def _watched(self, session: Session, request: Request, answer: Answer
                 ) -> Generator[list[int], None, Verdict | None]:
        """Yield what is free after each step; return the first verdict, None at the end of the answer."""
        with ExitStack() as stack:
            if any(place >= len(answer.tokens) for _, bans in answer.bans for place in bans):
                stack.enter_context(session.with_logit_warp(_banned(request, answer)))
            steps = self.over.generate(session, request.behind(answer.tokens[request.kept:]))
            if isinstance(steps, Generator):
                stack.callback(steps.close)  # before the warp ends, as it may have entered contexts of its own
            for block in steps:
                for token in block:
                    answer.add(token)
                    if request.ends(answer.tokens[request.kept:]):
                        return None
                    if verdict := answer.watcher.verdict(answer.tokens):
                        return verdict
                    if len(answer.tokens) - request.kept >= request.max_new_tokens:
                        return None
                yield answer.take()
        return None


def _banned(request: Request, answer: Answer) -> Warp:
    """Return the logit warp that bans tokens in sequences that begin with the tokens kept."""
    kept, places = [*request.prompt[:request.start], *answer.tokens], dict[int, list[int]]()
    for _, bans in answer.bans:
        for place, token in bans.items():
            places.setdefault(request.start + place, []).append(token)

    def warp(logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        banned = dict[int, np.ndarray[tuple[int], np.dtype[np.int64]]]()
        for row in range(len(logits)):
            sequence = sequences[row]
            if len(sequence) in places and list(sequence[:len(kept)]) == kept:
                banned[row] = np.array(places[len(sequence)])
        return without(logits, banned) if banned else logits
    return warp
