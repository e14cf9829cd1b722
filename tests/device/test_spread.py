"""A model over two simulated devices: every strategy writes what it writes on one, or is refused by name."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pytest
import torch

from harness.backends.transformers import open_session
from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.hooks import decoder_layers
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.errors import Unsupported
from harness.heads.network import TargetParts
from harness.models import spread
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request
from strategies.greedy import Greedy
from tests.decode import built, words
from tests.heads import untrained
from tests.models import MAX_POSITIONS, prompts, tiny_model
from tests.scale import scaled
from tests.strict_device import DEVICE, OTHER, Strict, moved, strict

LAYERS, NEW = 4, scaled(4, 10)
SAME = ("greedy", "temperature", "beam", "contrastive_search", "dola", "eagle3", "lookahead", "medusa", "speculative")
REFUSED = ("layer_skip", "streaming", "h2o", "kv_quant", "dynamic_evaluation")
REASON = "needs the whole model on one device: leave --device-map out"


def split(arch: str = "llama", seed: int = 0, at: int = 2) -> Any:
    """Return a tiny model whose layers from number `at` on are on the other device."""
    model = moved(tiny_model(arch, layers=LAYERS, seed=seed))
    for layer in decoder_layers(model)[at:]:
        moved(layer.whole, OTHER)
    spread.join(model)
    return model


@contextmanager
def engine(arch: str = "llama", at: int = 2) -> Iterator[tuple[Engine, Strict]]:
    """Yield the engine of a split model, inside the rules of its devices."""
    with strict() as rules, torch.inference_mode():
        yield Engine(split(arch, at=at), MAX_POSITIONS), rules


def written(name: str, at: int) -> list[list[int]]:
    """Return the steps of a strategy on a target of which layers from number `at` on are on the other device."""
    strategy = built(name)
    kind = strategy.head_kind
    head = untrained(kind, Engine(tiny_model("llama", layers=LAYERS), MAX_POSITIONS)) if kind else None
    with strict(), torch.inference_mode():
        engines = [Engine(split(at=at), MAX_POSITIONS), Engine(moved(tiny_model("llama", seed=1)), MAX_POSITIONS)]
        if head:
            moved(head.network).target = TargetParts.of(engines[0])
            engines[0].heads[kind] = head
        prompt = prompts(1, 97, 3)[0] * 2
        request = Request(tuple(prompt), NEW, PhiloxStream(0, 1), frozenset(), 0, text=words(prompt, 97))
        session = open_session(strategy, engines)
        return [list(step) for step in islice(strategy.generate(session, request), NEW)]


def outcome(name: str, at: int) -> list[list[int]] | str:
    """Return what a strategy writes, or why it is refused."""
    try:
        return written(name, at)
    except Unsupported as error:
        return str(error)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in (*SAME, *REFUSED) else [pytest.mark.slow])
                                  for name in sorted(STRATEGIES.built_in())])
def test_a_strategy_writes_the_same_on_two_devices_or_is_refused(name: str) -> None:
    found = outcome(name, 2)
    if REASON in found:
        assert name not in SAME
    else:
        assert found == outcome(name, LAYERS)
        assert name not in REFUSED


def test_keys_lie_with_their_layer_and_a_forward_copies_each_tensor_once() -> None:
    with engine() as (made, rules):
        session = Session(made)
        session.follow([5, 6, 7])
        session.read()
        assert [layer.keys.device for layer in made.cache.layers] == [DEVICE] * 2 + [OTHER] * 2
        assert made.cache.slot_bytes_by_device() == Counter({DEVICE: made.cache.slot_bytes() // 2,
                                                             OTHER: made.cache.slot_bytes() // 2})
        assert made.devices == {DEVICE, OTHER}
        rules.crossings.clear()
        reading = session.read(TokenTree((8, 9), (-1, -1)))
        assert reading.logits.device == DEVICE
        # states, mask, positions, cosines, sines, and the rows and slots of the cache; then the states come back
        assert len(rules.crossings) == 8, rules.crossings
        rules.crossings.clear()
        session.keep([1])
        session.read(TokenTree((8,), (-1,)))
        assert rules.crossings.count((3, 1)) == 1, "slots to be moved: once for both layers"


def test_recorded_states_come_to_the_device_of_the_outputs() -> None:
    with engine() as (made, _):
        session = Session(made, remember=("hidden:1", "hidden:3", "hidden:-1"))
        session.follow([5, 6, 7])
        session.read()
        assert session.states(("hidden:1", "hidden:3", "hidden:-1")).device == DEVICE


@pytest.mark.parametrize("arch", ["gpt2", "opt", "qwen3"])
def test_other_architectures_and_batches_write_the_same(arch: str) -> None:
    def texts(at: int) -> list[list[int]]:
        with engine(arch, at) as (made, _):
            def job(prompt: list[int]) -> list[int]:
                session = Session(made)
                steps = Greedy().generate(session, Request(tuple(prompt), 6, PhiloxStream(0)))
                return [token for step in islice(steps, 6) for token in step]
            return [list(text) for text in run_batched(
                [made], [lambda prompt=prompt: job(prompt) for prompt in prompts(3, 97, 2)], 3)]

    assert texts(2) == texts(LAYERS)
