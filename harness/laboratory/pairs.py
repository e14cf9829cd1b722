"""Sources and targets of the corpus, on which encoder-decoder models are trained."""

import random
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harness.nano.corpus import LIST, RECORD, problems
from harness.nano.documents import grouped
from harness.nano.lists import tested
from harness.nano.problem import Problem
from harness.nano.records import TRAINED, slots

COUNTS = {"edit": 44_000, "summary": 30_000, RECORD: 40_000}
IGNORED = -100  # label of padding


class Pair(NamedTuple):
    """The tokens of a prompt, and those of its answer with the EOS, in arrays, because lists need more memory."""

    source: "array[int]"
    target: "array[int]"


class PairBatch(NamedTuple):
    """Sources (B, S) and their mask, what the decoder reads (B, T), and the tokens that it is to give (B, T)."""

    source: Tensor
    mask: Tensor
    given: Tensor
    labels: Tensor


def pairs(split: str, counts: dict[str, int], seed: int, tokenizer: Any) -> list[Pair]:
    """Return the pairs of up to `counts[kind]` problems of each kind in random order.

    Records with many facts and lists that are tested are left out.
    """
    found: list[Pair] = []
    kept: dict[str, Callable[[Problem], bool]] = {RECORD: lambda one: len(slots(one)) <= TRAINED, LIST: _untested()}
    for kind, count in counts.items():
        found += encoded(filter(kept.get(kind), problems(kind, split, count, seed)), tokenizer)
    random.Random(seed).shuffle(found)
    return found


def _untested() -> Callable[[Problem], bool]:
    known = {one.turns for each in tested().values() for one in each}
    return lambda one: one.turns not in known


def encoded(some: Iterable[Problem], tokenizer: Any) -> Iterator[Pair]:
    """Yield the pair of each problem."""
    chosen, end = list(some), tokenizer.eos_token_id
    sources = tokenizer([one.turns[0] for one in chosen]).input_ids
    targets = tokenizer([one.answers[0] for one in chosen]).input_ids
    for source, target in zip(sources, targets, strict=True):
        yield Pair(array("H", source), array("H", [*target, end]))


def pair_batches(found: list[Pair], tokens: int, seed: int, start: int) -> Iterator[PairBatch]:
    """Yield batches of about `tokens` tokens of sources and targets without end; `start` begins each target."""
    lengths = [len(pair.source) + len(pair.target) for pair in found]
    for group in grouped(lengths, tokens, seed):
        yield pair_batch([found[place] for place in group], start)


def pair_batch(group: list[Pair], start: int) -> PairBatch:
    """Return pairs as one batch, padded on the right."""
    source = _padded([pair.source for pair in group], 0)
    mask = _padded([array("H", [1]) * len(pair.source) for pair in group], 0)
    labels = _padded([pair.target for pair in group], IGNORED)
    given = labels.clamp(min=0).roll(1, 1)
    given[:, 0] = start
    return PairBatch(source, mask, given, labels)


def _padded(rows: "list[array[int]]", filler: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row] + [filler] * (longest - len(row)) for row in rows])
