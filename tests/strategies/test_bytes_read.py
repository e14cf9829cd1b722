"""The keys and bytes that tokens read under rounded caches, pages and units, counted by hand."""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import pytest
import torch
import transformers

from harness.decoding.governed import GovernedCache
from harness.engine.batching import run_batched
from harness.engine.cache_policy import CachePolicy
from harness.engine.compute import difference
from harness.engine.engine import Engine
from harness.engine.hooks import Skip
from harness.engine.session import Session
from harness.engine.tree import EMPTY, TokenTree
from harness.plugins.registry import STRATEGIES
from harness.store.computed import Computed
from tests.decode import engine, traced
from tests.models import prompts, tiny_model

TEXT = [token for prompt in prompts(20, 97, 1) for token in prompt]
LAYERS, WIDTH = 2, 32
SIZES: dict[str, Any] = {
    "hidden_size": 4 * WIDTH, "num_attention_heads": 4, "num_hidden_layers": LAYERS, "intermediate_size": 48,
    "vocab_size": 97, "num_key_value_heads": 2, "max_position_embeddings": 512}


@cache
def target(window: int | None = None, dtype: torch.dtype = torch.float32) -> Engine:
    """A model of two layers whose keys have two heads and its queries four, of 32 numbers each."""
    torch.manual_seed(0)
    config = transformers.MistralConfig(**SIZES, sliding_window=window)
    return Engine(transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval(), 512)


def policy(spec: str) -> CachePolicy:
    strategy = STRATEGIES.build(spec)
    assert isinstance(strategy, GovernedCache)
    return strategy.policy()


def counts(spec: str, ends: Sequence[int], on: Engine | None = None, tree: TokenTree = EMPTY) -> dict[str, float]:
    """What reading the text up to the last of `ends` computes, after it has been read up to each of those before."""
    session = Session(on or target())
    with session.with_cache_policy(policy(spec)), torch.inference_mode():
        for end in ends:
            before = session.work.compute.numbers()
            session.follow(TEXT[:end])
            session.read(tree if end == ends[-1] else EMPTY)
        found = difference(session.work.compute.numbers(), before)
    session.close()
    return found


@pytest.mark.parametrize(("knobs", "keys", "values"), [
    ("bits=4,group=32,residual=0", 5 / 32, 5 / 32),           # four bits, and 32 for the scales of 32 numbers
    ("bits=2,group=16,residual=0", 4 / 32, 4 / 32),
    ("bits=8,group=64,residual=0", 8.5 / 32, 9 / 32),         # a value has no more than 32 numbers to a group
    ("bits=8,group=24,residual=0,keys=token", 10 / 32, 10 / 32),   # 24 and 8 numbers are two groups
    ("bits=4,group=32,residual=0,rotated=False", 5 / 32, 5 / 32),
])
def test_a_rounded_number_has_its_bits_and_a_share_of_its_scales(knobs: str, keys: float, values: float) -> None:
    found = counts(f"kv_quant:{knobs}", [96, 97])
    rounded = 96 if "token" in knobs else 96 // (64 if "64" in knobs else 16) * (64 if "64" in knobs else 16)
    assert found["keys"] == found["all_keys"] == LAYERS * 97
    assert found["kv"] == pytest.approx(LAYERS * (97 - (1 - keys) * rounded / 2 - (1 - values) * 96 / 2))


def test_the_last_tokens_are_read_in_full() -> None:
    """Of 90 tokens, values leave the exact part one by one, keys 32 at a time."""
    found = counts("kv_quant:bits=4,group=32,residual=32", [90, 91])
    assert found["kv"] == pytest.approx(LAYERS * (91 - 27 / 32 * (64 + 58) / 2))
    prompt = counts("kv_quant:bits=4,group=32,residual=32", [90])
    assert prompt["kv"] == prompt["keys"] == LAYERS * 90 * 91 / 2, "a prompt is read before it is rounded"
    assert counts("kv_quant:bits=4,group=32,residual=91", [90, 91])["kv"] == LAYERS * 91
    assert counts("kv_quant:bits=16,residual=0", [90, 91])["kv"] == LAYERS * 91


def test_half_precision_is_what_rounding_spares_half_as_much_of() -> None:
    found = counts("kv_quant:bits=4,group=32,residual=0", [96, 97], target(dtype=torch.bfloat16))
    assert found["kv"] == pytest.approx(LAYERS * (97 - (1 - 5 / 16) * 96))


def test_a_sliding_window_leaves_out_rounded_keys_first() -> None:
    """The window has slots 51 to 90; keys are rounded up to slot 63, values up to slot 59."""
    found = counts("kv_quant:bits=4,group=32,residual=30", [90, 91], target(40))
    assert found["keys"] == LAYERS * 40
    assert found["kv"] == pytest.approx(LAYERS * (40 - 27 / 32 * (13 + 9) / 2))


def test_verified_drafts_read_what_tokens_alone_read() -> None:
    """Without a window, each token of the tree reads the 64 keys and 64 values that are rounded."""
    tree = TokenTree((5, 6, 7), (-1, -1, 0))
    found = counts("kv_quant:bits=4,group=32,residual=0", [64, 65], tree=tree)
    assert found["kv"] == pytest.approx(LAYERS * (65 + 66 + 66 + 67 - 4 * 27 / 32 * 64))


def test_pages_are_compared_by_two_bounds_of_each() -> None:
    """Of 100 tokens the first layer reads all, the other 4 of 13 pages of 8 and all bounds, as much as 13 keys."""
    found = counts("quest:budget=32,page=8,dense=1", [99, 100])
    newest = found["keys"] - 100 - 13  # the last page has four tokens, and each head may have it or not
    assert 28 <= newest <= 32
    assert found["kv"] == found["keys"]
    shared = counts("quest:budget=32,page=8,dense=1,variant=frontier", [99, 100])
    assert shared["keys"] == shared["kv"] == 100 + 28 + 13
    share = counts("quest:share=0.3,page=8,dense=1,variant=frontier", [99, 100])
    assert share["keys"] == share["kv"] == 100 + 28 + 13, "4 of 13 pages, too"
    assert counts("quest:budget=104,page=8,dense=1", [99, 100])["keys"] == 200, "nothing is left out"
    assert counts("quest:share=1,page=8,dense=1", [99, 100])["keys"] == 200
    assert counts("quest:budget=32,page=8,dense=1", [100])["keys"] == 100 * 101, "a prompt is read whole"


def test_a_unit_is_one_vector_of_each_query_head() -> None:
    """Of 60 tokens, 8 are in the window, 2 sinks; 50 behind it form 12 units of 4, of which two are read.

    Keys have two heads, but the mean of a unit has one part for each of four query heads.
    """
    found = counts("infllm:sinks=2,window=8,unit=4,reps=2,top=2,block=8", range(1, 61))
    seen, free = 8 + 2 + 2 * 4, 60 - 8 - 2 - 12 * 4  # of a unit that is not complete, all tokens are read
    assert found["keys"] == LAYERS * (seen + free + 12 / 2)
    assert found["kv"] == LAYERS * (seen + free + 12 / 2 * 4 / 2), "four heads to two"
    every = counts("infllm:sinks=2,window=8,unit=4,reps=2,top=12,block=8", range(1, 61))
    assert every["keys"] == every["kv"] == LAYERS * 60, "units that are all read are not looked up"
    none = counts("infllm:sinks=2,window=8,unit=4,reps=2,top=0,block=8", range(1, 61))
    assert none["keys"] == LAYERS * (8 + 2 + free)


@pytest.mark.parametrize("spec", ["kv_quant:bits=2,group=4,residual=4", "quest:budget=8,page=2,dense=0",
                                  "infllm:sinks=2,window=6,unit=3,reps=2,top=2"])
@torch.inference_mode()
def test_a_batch_counts_what_each_answer_counts_alone(spec: str) -> None:
    on = engine(tiny_model("llama", layers=2))

    def read(text: Sequence[int]) -> dict[str, float]:
        return traced(STRATEGIES.build(f"greedy+{spec}"), on, list(text), new=12, eos=None)[1].compute.numbers()
    jobs = [partial(read, TEXT[i:i + 3 + 9 * i]) for i in range(5)]
    alone = [job() for job in jobs]
    for batched, one in zip(run_batched([on], jobs), alone, strict=True):
        assert batched == pytest.approx(one)
    assert any(one["kv"] != one["all_keys"] for one in alone)


def test_a_layer_that_is_skipped_reads_no_rounded_keys() -> None:
    """Half of the layers, half of what rounding spares."""


    session = Session(target())
    with session.with_cache_policy(policy("kv_quant:bits=4,group=32,residual=0")), torch.inference_mode():
        session.follow(TEXT[:64])
        session.read()
        before = session.work.compute.numbers()
        session.follow(TEXT[:65])
        session.read(EMPTY, Skip(attention=frozenset([1])))
        found = difference(session.work.compute.numbers(), before)
    session.close()
    assert found["kv"] == pytest.approx(65 - 27 / 32 * 64)


def test_older_records_have_the_bytes_of_their_keys() -> None:
    names = [name for name in Computed.model_fields if name != "kv"]
    assert Computed(**dict.fromkeys(names, (0, 1))).kv is None
