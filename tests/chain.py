"""Searches over the enumerable chain of `tests.markov`, and all of its sequences."""

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


def chain_request(new: int = LENGTH, stream: Stream | None = None) -> Request:
    """Return a request for the chain."""
    return Request((START,), new, stream or PhiloxStream(0), frozenset({END}))


def hypotheses(strategy: Search, stream: Stream | None = None) -> list[Hypothesis]:
    """Return all hypotheses of a search on the chain, best first."""
    return list(strategy.search(Session(markov()), chain_request(stream=stream)))


def run_on_table(front: Front) -> None:
    """Run a front over the chain's table without a model, which is much faster."""
    while not front.done:
        last = [h.tokens[-1] if h.tokens else START for h in front.live]
        front.advance(TABLE[last].log(), torch.empty(len(last), 0))


@cache
def all_sequences() -> dict[str, float]:
    """Return log p of every sequence of at most four tokens."""
    sequences = {}
    for size in range(1, LENGTH + 1):
        for sequence in product((1, 2, 3), repeat=size):
            if END in sequence[:-1] or (size < LENGTH and sequence[-1] != END):
                continue
            log_p, last = 0.0, START
            for token in sequence:
                log_p, last = log_p + math.log(TABLE[last, token]), token
            sequences[letters(sequence)] = log_p
    return sequences
