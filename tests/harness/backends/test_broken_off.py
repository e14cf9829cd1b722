"""A strategy that is broken off before its end."""

from collections.abc import Iterator

import pytest

from harness.backends.trace import trace
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.models.stop_rule import StopRule
from harness.plugins.strategy import Request
from strategies.greedy import Greedy
from tests.decode import engine
from tests.models import EOS, prompts, tiny_model
from tests.pair import tokenizer


class Interrupted(Greedy):
    """Gets Ctrl-C while it ends."""

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        try:
            yield from super().generate(session, request)
        finally:
            raise KeyboardInterrupt


def test_ctrl_c_counts_while_a_strategy_ends() -> None:
    prompt = prompts(1)[0]
    request = Request(tuple(prompt), 3, PhiloxStream(0), frozenset({EOS}))
    with pytest.raises(KeyboardInterrupt):
        trace(Interrupted(), Session(engine(tiny_model("llama"))), request,
              StopRule(tokenizer(), prompt, frozenset({EOS}), ()), lambda: 0.0)
