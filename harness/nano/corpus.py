"""The corpus: seeded problems of six kinds, records and lists, with no problem text in two splits."""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import islice

from harness.nano import chats, edits, functions, lists, records, shipped, stories, summaries, word_problems
from harness.nano.problem import Problem

KINDS = ("math", "code", "chat", "story", "edit", "summary")  # those of the decoder-only models
RECORD, LIST = "record", "list"  # of models that are trained for them
SPLITS = ("train", "dev", "test")

_DRAW: dict[str, Callable[[random.Random], Problem]] = {
    "math": word_problems.draw,
    "code": functions.draw,
    "chat": chats.draw,
    "story": stories.draw,
    "edit": edits.draw,
    "summary": summaries.draw,
    RECORD: records.draw,
    LIST: lists.draw,
}


def problems(kind: str, split: str, count: int, seed: int = 0) -> list[Problem]:
    """Return `count` distinct problems; a larger count starts with the same ones. Raises ValueError on a bad name."""
    known, stream = _known(kind, split, seed)
    known += islice(stream, max(0, count - len(known)))
    return known[:count]


def canonical(problem: Problem) -> str:
    """Return the text that identifies a problem: its prompts without the examples of a docstring."""
    return "\n".join(turn.split(">>>")[0].rstrip() for turn in problem.turns)


def split_of(problem: Problem) -> str:
    """Return the split a problem belongs to, decided by a hash of its canonical text (80 / 10 / 10 %)."""
    bucket = int.from_bytes(hashlib.sha256(canonical(problem).encode()).digest()[:4], "big") % 10
    return {0: "test", 1: "dev"}.get(bucket, "train")


@cache  # tasks and tests ask for the same problems again and again
def _known(kind: str, split: str, seed: int) -> tuple[list[Problem], Iterator[Problem]]:
    """Return the problems known so far, and the stream of the next ones."""
    known = [] if seed else shipped.first(kind, split)
    return known, islice(drawn(kind, split, seed), len(known), None)


def drawn(kind: str, split: str, seed: int = 0) -> Iterator[Problem]:
    """Draw distinct problems, one after another, without end. Raises ValueError on a bad name."""
    if kind not in _DRAW:
        raise ValueError(f"There is no kind of problem called {kind!r}; the kinds are {', '.join(_DRAW)}.")
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


if __name__ == "__main__":
    shipped.save(problem for kind in KINDS for split in shipped.SPLITS
                 for problem in islice(drawn(kind, split), shipped.COUNT))
