"""The rank of each sampled token that a trace keeps on request, by hand and against plain forwards."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from harness.backends.trace import Trace, trace
from harness.backends.transformers import open_session
from harness.decoding.accept import rejection
from harness.decoding.loop import one_by_one
from harness.engine.engine import Engine
from harness.engine.random_stream import Likeliest, PhiloxStream, Stream
from harness.engine.session import Session
from harness.models.stop_rule import StopRule
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request, Strategy
from harness.run.runner import run
from harness.store.config import RunConfig
from harness.store.folder import Store
from tests.decode import engine
from tests.markov import END, START, A, B, Markov
from tests.models import prompts, tiny_model
from tests.pair import saved, tokenizer
from tests.watch import Quiet


class Scripted(Likeliest):
    """A stream that chooses tokens in a given order, whatever their chances."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.left = deque(tokens)

    def choose(self, weights: Tensor) -> int:
        return self.left.popleft()


def traced(strategy: Strategy, engines: Sequence[Engine], prompt: Sequence[int], stream: Stream, count: int,
           full: bool = True) -> Trace:
    rule = StopRule(tokenizer(), prompt, frozenset(), ())
    return trace(strategy, open_session(strategy, engines), Request(tuple(prompt), count, stream), rule, lambda: 0.0,
                 full)


def on_tiny_models(spec: str, full: bool = True) -> Trace:
    engines = [engine(tiny_model("llama")), engine(tiny_model("llama", seed=1))]
    return traced(STRATEGIES.build(spec), engines, prompts(1)[0], PhiloxStream(0), 20, full)


@pytest.mark.parametrize("spec", ["temperature:temperature=1", "top_k:k=1,temperature=3",
                                  "temperature:temperature=1+repetition_penalty:penalty=50"])
def test_ranks_by_hand_are_those_before_every_warp(spec: str) -> None:
    """After A: B .5, END .4, A .1; after B: A .55, END .4, B .05; after the start: A .45, B .35, END .2."""
    tokens = [B, A, A, B, B, A, END]
    found = traced(STRATEGIES.build(spec), [Engine(Markov(), 64)], [START], Scripted(tokens), len(tokens))
    assert (found.tokens, found.ranks) == (tokens, [2, 1, 3, 1, 3, 1, 2])


def test_equal_logits_share_the_better_rank() -> None:
    table = torch.tensor([[0.3, 0.3, 0.3, 0.1]] * 4)
    found = traced(STRATEGIES.build("temperature:temperature=1"), [Engine(Markov(table), 64)], [START],
                   Scripted([2, 0, 3]), 3)
    assert found.ranks == [1, 1, 4]


@pytest.mark.parametrize("spec", ["top_p:temperature=1.5", "mirostat", "temperature:temperature=1+best_of_n:n=1",
                                  "speculative:gamma=3,temperature=1.5", "specinfer:temperature=1.5",
                                  "prompt_lookup:temperature=1"])
def test_ranks_are_those_of_plain_forwards(spec: str) -> None:
    found, prompt = on_tiny_models(spec), prompts(1)[0]
    with torch.inference_mode():
        logits = tiny_model("llama")(torch.tensor([[*prompt, *found.tokens]])).logits[0, len(prompt) - 1:-1]
    by_order = logits.argsort(-1, descending=True).tolist()
    assert found.ranks == [1 + order.index(token) for order, token in zip(by_order, found.tokens, strict=True)]
    assert len(found.ranks) == 20
    assert max(found.ranks) > 1
    assert spec.startswith(("speculative", "specinfer")) == (sum(found.steps.accepted) > 0)


@pytest.mark.parametrize(("spec", "full"), [
    ("greedy", True), ("speculative:gamma=3,temperature=0", True), ("beam:width=2", True),
    ("temperature:temperature=1+best_of_n:n=2", True), ("temperature:temperature=1", False)])
def test_other_tokens_have_no_rank(spec: str, full: bool) -> None:
    found = on_tiny_models(spec, full)
    assert found.tokens
    assert found.ranks == []


def test_ranks_of_tokens_that_were_not_committed_are_dropped() -> None:
    def generate(session: Session, request: Request) -> Iterator[list[int]]:
        for block in one_by_one(session, rejection, request):
            yield [token + 1 for token in block]
    strategy: Any = SimpleNamespace(generate=generate, needs=())
    found = traced(cast(Strategy, strategy), [engine(tiny_model("llama"))], [5], PhiloxStream(0), 4)
    assert (len(found.tokens), found.ranks) == (4, [])


def test_a_batch_keeps_the_same_ranks_and_only_on_request(tmp_path: Path) -> None:
    alone = RunConfig(model=str(saved("llama")), tasks=("nano_math",), limit=8, device="cpu", threads=1,
                      strategies=("greedy", "top_p:temperature=1.5", "prompt_lookup:temperature=1"),
                      max_new_tokens=12, output=tmp_path / "alone", trace="full")
    ranks = [{record.key: record.turns[0].ranks for record in Store.open(run(asked, Quiet(), "").folder).records()}
             for asked in (alone, replace(alone, concurrency=8, output=tmp_path / "batch"),
                           replace(alone, trace=None, limit=2, output=tmp_path / "without"))]
    assert ranks[0] == ranks[1]
    assert all(bool(known) == (not key[2].startswith("greedy")) for key, known in ranks[0].items())
    assert {tuple(known) for known in ranks[2].values()} == {()}
