"""Run strategies that draft without another model step by step, on tiny models, shallow and deep."""

from collections.abc import Sequence
from functools import cache

import pytest

from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.models.loading import load
from harness.plugins.strategy import Request, Strategy
from strategies.greedy import Greedy
from tests import models
from tests.decode import engine
from tests.models import prompts, tiny_model
from tests.scale import scaled

PROMPTS, NEW = prompts(3, 97, 1), scaled(20, 40)
TEXT = "Once upon a time there was a little girl called Lily. She liked to"


@cache
def nano() -> tuple[Engine, list[int]]:
    """The engine of nano and a prompt for it."""
    model = load("nano")
    return model.engine, model.tokenizer(TEXT)["input_ids"]


@cache
def target(arch: str = "llama") -> Engine:
    return engine(tiny_model(arch))


def steps(strategy: Strategy, prompt: Sequence[int], new: int, on: Engine | None = None
          ) -> tuple[Session, list[list[int]]]:
    """The session and the tokens of each step, past EOS."""
    session, blocks = Session(on or target()), list[list[int]]()
    for block in strategy.generate(session, Request(tuple(prompt), new, PhiloxStream(0))):
        blocks.append(list(block))
        if sum(map(len, blocks)) >= new:
            break
    session.close()
    return session, blocks


def greedy(prompt: Sequence[int], new: int, on: Engine | None = None) -> list[int]:
    return [token for block in steps(Greedy(), prompt, new, on)[1] for token in block]


def as_greedy(strategy: Strategy, on: Engine) -> list[tuple[Session, list[list[int]]]]:
    """The session and the steps of every prompt, all of which must be greedy's tokens."""
    done = [steps(strategy, prompt, NEW, on) for prompt in PROMPTS]
    assert [[t for block in blocks for t in block] for _, blocks in done] == greedily(on)
    return done


@cache
def greedily(on: Engine) -> list[list[int]]:
    return [greedy(prompt, NEW, on) for prompt in PROMPTS]


@cache
def deep(arch: str = "llama", vocab: int = 97, sharpness: float = 2.5, layers: int = 6) -> Engine:
    """A tiny model of several layers, whose MLPs are weak enough for it to agree with itself when some are left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "LAYERS", layers)
        patch.setattr(models, "MLP_GAIN", 3.0)
        return Engine(tiny_model(arch, vocab=vocab, sharpness=sharpness), models.MAX_POSITIONS)
