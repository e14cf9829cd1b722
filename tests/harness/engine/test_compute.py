"""Counts of what forwards compute, against the calls of the model's own modules and its attention weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from harness.engine.attention_hooks import WatchAttention
from harness.engine.batching import run_batched
from harness.engine.compute import difference
from harness.engine.engine import Engine
from harness.engine.hooks import Captured, ModelParts, decoder_layers
from harness.engine.session import Session
from harness.engine.tree import EMPTY, TokenTree
from tests.models import MAX_POSITIONS, prompts, tiny_model
from tests.strict_device import moved, strict

TEXT = prompts(1, 97, 3)[0] * 3
TREE = TokenTree((5, 6, 7, 8), (-1, -1, 0, 2))


def deep(layers: int = 3) -> Engine:
    return Engine(tiny_model("llama", layers=layers), MAX_POSITIONS)


@contextmanager
def calls(engine: Engine) -> Iterator[dict[str, int]]:
    """Count calls of attention and MLP modules, and the tokens in them, by hooks of torch."""
    found = {"attention": 0, "mlp": 0, "attention_read": 0, "mlp_read": 0, "logits": 0, "logits_read": 0}

    def called(name: str, module: object, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        states = args[0] if args else kwargs["hidden_states"]
        found[name] += states.numel() // states.shape[-1]
        found[f"{name}_read"] += 1
    handles = [module.register_forward_pre_hook(partial(called, name), with_kwargs=True)
               for layer in decoder_layers(engine.model) for name, module in (("attention", layer.attention),
                                                                             ("mlp", layer.mlp[0]))]
    handles.append(engine.parts.head.register_forward_pre_hook(partial(called, "logits"), with_kwargs=True))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("arch", ["llama", "gpt2", "opt"])
def test_counts_are_the_calls_of_the_models_modules(arch: str) -> None:
    engine = Engine(tiny_model(arch, layers=3), MAX_POSITIONS)
    session = Session(engine)
    with calls(engine) as found:
        session.follow(TEXT)
        session.read(TREE)
        session.keep([0, 2])
        session.read()
        session.grow([9, 10], [-1, -1])
        session.grow([11], [1])
    numbers = session.work.compute.numbers()
    session.close()
    assert {name: numbers[name] for name in found} == found
    assert numbers["keys"] == numbers["all_keys"]
    assert numbers["fills"] == 0


def seen(engine: Engine, session: Session, text: Sequence[int], tree: TokenTree) -> int:
    """The slots with an attention weight, over all layers and tokens of one forward."""
    layers = len(engine.cache.layers)
    session.follow(text)
    output = session._extend(text, tree, WatchAttention(tuple(range(layers))))
    return sum(int((output._parts[0]._output.captured[f"attention:{layer}"][:, :, 0] > 0).sum())
               for layer in range(layers))


SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 48,
         "vocab_size": 97, "num_key_value_heads": 2, "max_position_embeddings": 128}


@pytest.mark.parametrize("config", [
    transformers.LlamaConfig(**SIZES), transformers.MistralConfig(**SIZES, sliding_window=6),
    transformers.Qwen2Config(**SIZES, sliding_window=6, use_sliding_window=True,
                             layer_types=["sliding_attention", "full_attention", "sliding_attention"])])
@pytest.mark.parametrize("tree", [EMPTY, TokenTree.chain([5, 6]), TREE])
def test_keys_are_those_with_an_attention_weight(config: Any, tree: TokenTree) -> None:
    torch.manual_seed(0)
    engine = Engine(transformers.AutoModelForCausalLM.from_config(config).eval(), 128)
    session = Session(engine)
    wanted = seen(engine, session, TEXT[:14], tree)
    found = session.work.compute.numbers()
    assert found["keys"] == found["all_keys"] == wanted


@dataclass(frozen=True)
class Sparing:
    """Records what the token at each place of a forward would spare: as many MLPs as its place, and more."""

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[Captured]:
        captured, embedding = dict[str, Tensor](), parts.embedding
        handle = embedding.register_forward_hook(lambda module, args, output: captured.update(
            {"spared:mlp": args[0] % 3, "spared:keys": args[0] % 5, "added:logits": args[0] % 2,
             "added:fills": args[0] % 3}))
        yield captured
        handle.remove()


def test_what_a_hook_spares_is_left_out_for_the_tokens_of_the_sequence_alone() -> None:
    """In one batch as alone, without what it spares for padding."""
    texts, engine = [TEXT, TEXT[:4], TEXT[3:10]], deep()

    def read(text: Sequence[int]) -> dict[str, float]:
        session = Session(engine)
        session.follow(text)
        session.read(EMPTY, Sparing())
        numbers = session.work.compute.numbers()
        session.close()
        return numbers
    alone = [read(text) for text in texts]
    assert run_batched([engine], [partial(read, text) for text in texts]) == alone
    for text, found in zip(texts, alone, strict=True):
        size = len(text)
        assert found["attention"] == 3 * size
        assert found["mlp"] == 3 * size - sum(token % 3 for token in text)
        assert found["mlp_read"] == 3 - min(token % 3 for token in text)
        assert found["keys"] == 3 * size * (size + 1) / 2 - sum(token % 5 for token in text)
        assert found["logits"] == 1 + sum(token % 2 for token in text)
        assert found["logits_read"] == 1 + max(token % 2 for token in text)
        assert found["fills"] == sum(token % 3 for token in text)


def test_counting_what_is_spared_does_not_wait_for_the_device() -> None:
    with strict() as rules, torch.inference_mode():
        session = Session(Engine(moved(tiny_model("llama")), MAX_POSITIONS))
        session.follow(TEXT)
        session.read(TREE, Sparing())
        before = rules.syncs
        assert not before
        assert session.work.compute.numbers()["mlp"] > 0
        assert rules.syncs == before + 1


def test_drafts_of_the_model_for_itself_are_counted_apart() -> None:
    session = Session(deep())
    session.follow(TEXT)
    session.read()
    before = session.work.compute.numbers()
    session.draft_read([5, 6], Sparing())
    assert not any(difference(session.work.compute.numbers(), before).values())
    size = len(TEXT)
    assert session.draft_work.compute.numbers()["keys"] == 3 * (size + 1 + size + 2) - 1
