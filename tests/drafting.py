"""Short runs of strategies with a draft model, on one prompt of a tiny model."""

from functools import cache

from harness.decoding.loop import Step
from harness.decoding.verified import Verified
from harness.engine.engine import Engine
from harness.engine.random_stream import Stream
from harness.engine.session import Session, Work
from harness.engine.tree import EMPTY, TokenTree
from harness.plugins.strategy import Request
from tests.decode import engine, traced
from tests.models import prompts, tiny_model

PROMPT = prompts(5, 97, 1)[0] * 2


@cache
def model(seed: int = 0) -> Engine:
    return engine(tiny_model("llama", seed=seed, layers=2))


def run(strategy: Verified, new: int, draft: Engine) -> tuple[list[int], Work, Work]:
    return traced(strategy, model(), PROMPT, draft=draft, new=new, eos=None)


def step(strategy: Verified, limit: int, stream: Stream) -> TokenTree:
    """Return one tree of the drafter below PROMPT."""
    target = Session(model(), Session(model(1)))
    try:
        request = Request(tuple(PROMPT), 20, stream)
        target.follow(PROMPT)
        return strategy.drafter(target, request).draft(PROMPT, Step(EMPTY, target.read(), (), 0), limit)
    finally:
        target.close()
