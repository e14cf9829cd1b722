"""The corpus: seeded problems of six kinds, with no problem text in two splits."""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import islice

from harness.nano import chats, edits, functions, stories, summaries, word_problems
from harness.nano.problem import Problem

KINDS = ("math", "code", "chat", "story", "edit", "summary")
SPLITS = ("train", "dev", "test")

_DRAW: dict[str, Callable[[random.Random], Problem]] = {
    "math": word_problems.draw,
    "code": functions.draw,
    "chat": chats.draw,
    "story": stories.draw,
    "edit": edits.draw,
    "summary": summaries.draw,
}


def problems(kind: str, split: str, count: int, seed: int = 0) -> list[Problem]:
    """Return `count` distinct problems; a larger count starts with the same ones. Raises ValueError on a bad name."""
    drawn, stream = _drawn(kind, split, seed)
    drawn += islice(stream, max(0, count - len(drawn)))
    return drawn[:count]


def canonical(problem: Problem) -> str:
    """Return the text that identifies a problem: its prompts without the examples of a docstring."""
    return "\n".join(turn.split(">>>")[0].rstrip() for turn in problem.turns)


def split_of(problem: Problem) -> str:
    """Return the split a problem belongs to, decided by a hash of its canonical text (80 / 10 / 10 %)."""
    bucket = int.from_bytes(hashlib.sha256(canonical(problem).encode()).digest()[:4], "big") % 10
    return {0: "test", 1: "dev"}.get(bucket, "train")


@cache  # tasks and tests ask for the same problems again and again
def _drawn(kind: str, split: str, seed: int) -> tuple[list[Problem], Iterator[Problem]]:
    """Return the problems drawn so far, and the stream of the next ones."""
    return [], _stream(kind, split, seed)


def _stream(kind: str, split: str, seed: int) -> Iterator[Problem]:
    if kind not in KINDS:
        raise ValueError(f"There is no kind of problem called {kind!r}; the kinds are {', '.join(KINDS)}.")
    if split not in SPLITS:
        raise ValueError(f"There is no split called {split!r}; the splits are {', '.join(SPLITS)}.")
    rng = random.Random(f"{kind}/{seed}")
    seen: set[str] = set()
    while True:
        problem = _DRAW[kind](rng)
        text = canonical(problem)
        if text not in seen and split_of(problem) == split:
            yield replace(problem, id=f"{kind}/{split}/{len(seen):04d}")
            seen.add(text)
