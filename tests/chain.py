"""Searches over the enumerable chain of `tests.markov`: what they are asked and find, and every text there is."""

import math
from functools import cache
from itertools import product

import torch

from harness.decoding.search import Front, Hypothesis, Search
from harness.engine.random_stream import PhiloxStream, Stream
from harness.engine.session import Session
from harness.plugins.strategy import Request
from tests.markov import END, START, TABLE, letters, markov

LENGTH = 4


def told(new: int = LENGTH, stream: Stream | None = None) -> Request:
    """The chain's request."""
    return Request((START,), new, stream or PhiloxStream(0), frozenset({END}))


def found(strategy: Search, stream: Stream | None = None) -> list[Hypothesis]:
    """All that a search finds on the chain, best first."""
    return list(strategy.search(Session(markov()), told(stream=stream)))


def played(front: Front) -> None:
    """Run a front over the chain's table without a model, which is much faster."""
    while not front.done:
        last = [h.tokens[-1] if h.tokens else START for h in front.live]
        front.advance(TABLE[last].log(), torch.empty(len(last), 0))


@cache
def everything() -> dict[str, float]:
    """log p of every text of at most four tokens."""
    texts = {}
    for size in range(1, LENGTH + 1):
        for text in product((1, 2, 3), repeat=size):
            if END in text[:-1] or (size < LENGTH and text[-1] != END):
                continue
            log_p, last = 0.0, START
            for token in text:
                log_p, last = log_p + math.log(TABLE[last, token]), token
            texts[letters(text)] = log_p
    return texts
