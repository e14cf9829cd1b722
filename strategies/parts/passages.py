"""Passages of a corpus and the n-grams that identify them, scored as in SEAL (Bevilacqua et al. 2022, 2204.10628)."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from harness.engine.engine import Engine
from harness.errors import UserError
from harness.plugins.data import read_text
from strategies.drafters.store import END, Store

FREQUENT = 1500  # occurrences up to which a key proposes passages
SCORED = 1500    # passages that are scored with all keys
SMOOTHING = 5
Key = tuple[int, ...]
_known: WeakKeyDictionary[Engine, dict[str | tuple[str, ...], "Passages"]] = WeakKeyDictionary()


class Passages:
    """A corpus of passages (token ids)."""

    def __init__(self, texts: Sequence[Sequence[int]], vocab: int) -> None:
        self.store = Store.of(texts, vocab)
        self.size = len(self.store.tokens) - len(texts)

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """The index of the end of each passage in the tokens of the store."""
        return np.nonzero(self.store.tokens == END)[0]

    @cached_property
    def firsts(self) -> list[int]:
        """All tokens of the corpus."""
        return self.store.continuations(())

    def continuations(self, key: Key) -> list[int]:
        """Return the tokens that follow `key` somewhere in the corpus."""
        return self.store.continuations(key) if key else self.firsts

    def count(self, key: Key) -> int:
        """Return the number of occurrences of `key`."""
        low, high = self.store.range(key)
        return high - low

    def tokens(self, number: int) -> list[int]:
        """Return the tokens of a passage."""
        start = int(self.ends[number - 1]) + 1 if number else 0
        found: list[int] = self.store.tokens[start:int(self.ends[number])].tolist()
        return found

    def places(self, key: Key) -> dict[int, list[int]]:
        """Return where `key` begins, by the passage it is in."""
        found, starts = defaultdict[int, list[int]](list), np.sort(self.store.positions(key)) - len(key)
        for number, start in zip(np.searchsorted(self.ends, starts).tolist(), starts.tolist(), strict=True):
            found[number].append(start)
        return found

    def ranked(self, keys: Mapping[Key, float], alpha: float, beta: float) -> list[tuple[int, float]]:
        """Return passages by number with their scores, best first, given the log p of each key.

        Keys of at most `FREQUENT` occurrences propose passages, by the sum of their scores; the best `SCORED` are then
        scored with all keys. Of equal scores the larger sum comes first: keys that overlap a better one still tell
        passages with the same beginning apart.
        """
        scores = {key: key_score(log_p, self.count(key), self.size, alpha) for key, log_p in keys.items()}
        useful = sorted((key for key in keys if scores[key] > 0), key=lambda key: (-scores[key], key))
        places = {key: self.places(key) for key in useful}
        sums = defaultdict[int, float](float)
        for key in useful:
            for number in places[key] if self.count(key) <= FREQUENT else ():
                sums[number] += scores[key]
        proposed = sorted(sums, key=lambda number: (-sums[number], number))[:SCORED]
        whole = [(number, passage_score([(key, scores[key], places[key][number]) for key in useful
                                         if number in places[key]], beta)) for number in proposed]
        return sorted(whole, key=lambda pair: -pair[1])


def key_score(log_p: float, count: int, size: int, alpha: float) -> float:
    """Return the score of a key with `count` occurrences in a corpus of `size` tokens.

    It compares log p after the query with the log of the key's share of the corpus; no key scores below 0.
    """
    own, share = min(log_p, -1e-12), min(math.log((count + SMOOTHING) / (size + SMOOTHING)), -1e-12)
    odds = own + math.log(-math.expm1(share)) - share - math.log(-math.expm1(own))
    return float(max(0.0, odds) ** alpha)


def passage_score(keys: Sequence[tuple[Key, float, Sequence[int]]], beta: float) -> float:
    """Return the score of a passage, given its keys, best first, each with its score and where it begins.

    A key counts where it overlaps no key before it, and by 1 − β + β · the share of its tokens that none of them has.
    """
    total, used, taken = 0.0, set[int](), list[range]()
    for key, score, starts in keys:
        free = next((start for start in starts if not any(start < one.stop and one.start < start + len(key)
                                                          for one in taken)), None)
        if free is not None:
            distinct = set(key)
            total += score * (1 - beta + beta * len(distinct - used) / len(distinct))
            used |= distinct
            taken.append(range(free, free + len(key)))
    return total


def in_file(engine: Engine, file: str, encode: Callable[[str], list[int]]) -> Passages:
    """Return the lines of a file as passages; raises `UserError` for an empty one."""
    if file not in _known.setdefault(engine, {}):
        lines = tuple(line.strip() for line in read_text(file).splitlines() if line.strip())
        if not lines:
            raise UserError(f"seal: {file} has no passages; write one a line.")
        _known[engine][file] = indexed(engine, lines, encode)
    return _known[engine][file]


def indexed(engine: Engine, texts: tuple[str, ...], encode: Callable[[str], list[int]]) -> Passages:
    """Return texts as passages, each behind a space, as in an answer; indexed once for each model."""
    if texts not in _known.setdefault(engine, {}):
        _known[engine][texts] = Passages([encode(f" {text}") for text in texts], engine.vocab)
    return _known[engine][texts]
