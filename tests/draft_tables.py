"""Run strategies that draft from tables of earlier tokens, and random sequences for those tables."""

import random
from collections.abc import Sequence
from functools import cache

from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session, Work
from harness.plugins.strategy import Request, Strategy
from tests.decode import engine
from tests.models import prompts, tiny_model

PROMPTS = prompts(4, 97, 1)


@cache
def target(arch: str = "llama") -> Engine:
    return engine(tiny_model(arch, layers=2))


def work(strategy: Strategy, prompt: Sequence[int], new: int = 40) -> tuple[Work, list[int]]:
    """Return the work for a sequence, and its tokens without EOS."""
    session, tokens = Session(target()), list[int]()
    for block in strategy.generate(session, Request(tuple(prompt), new, PhiloxStream(0))):
        tokens += block
        if len(tokens) >= new:
            break
    session.close()
    return session.work, tokens[:new]


def texts(count: int, most: int = 60) -> list[list[int]]:
    """Return random sequences over two to four tokens, with many repeats."""
    rng = random.Random(7)
    return [[rng.randrange(2 + i % 3) for _ in range(rng.randrange(1, most))] for i in range(count)]
