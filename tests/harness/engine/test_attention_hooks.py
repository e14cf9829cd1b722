"""Attention heads that are masked or watched: what the forward then says, and that nothing of it stays."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from harness.engine.attention_hooks import Head, MaskedHeads, WatchAttention, head_counts
from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.hooks import ForwardHook, replaced
from harness.engine.session import Session
from harness.engine.tree import EMPTY, TokenTree
from harness.errors import Unsupported
from harness.models.attention import use_fast_attention
from tests.decode import engine
from tests.models import ARCHS, HEADS, HIDDEN, prompts, tiny_model
from tests.scale import scaled

SOME: frozenset[Head] = frozenset({(0, 1), (1, 0), (1, 3)})
ALL = frozenset((layer, head) for layer in range(2) for head in range(HEADS))
SIZE = HIDDEN // HEADS


@cache
def target(arch: str, kind: str = "eager") -> Engine:
    model = tiny_model(arch, layers=2)
    if kind != "eager":
        model.set_attn_implementation("sdpa")
    if kind == "kernels":
        use_fast_attention(model)
    return engine(model)


@torch.inference_mode()
def said(engine: Engine, text: list[int], hook: ForwardHook | None, tree: TokenTree = EMPTY) -> Tensor:
    session = Session(engine)
    session.follow(text)
    logits = session.read(tree, hook).logits
    session.close()
    return logits


@contextmanager
def by_hand(model: Any, heads: frozenset[Head], mode: str) -> Iterator[None]:
    """Mask heads in the module's own eager function: scores of zero before the mask is added, or values of zero."""
    home = sys.modules[type(model.get_decoder().layers[0].self_attn).__module__
                       if hasattr(model.get_decoder(), "layers") else type(model.transformer.h[0].attn).__module__]
    own = home.eager_attention_forward

    def masked(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **options: Any) -> Any:
        mine = [head for layer, head in heads if layer == module.layer_idx]
        out, weights = own(module, query, key, value, mask, **options)
        for head in mine:
            seen = (mask > -1).float() if mask.dtype != torch.bool else mask.float()
            even = (seen / seen.sum(-1, keepdim=True))[:, 0]                         # (B, Q, S)
            shared = query.shape[1] // value.shape[1]                                # query heads of a key head
            out[:, :, head] = even @ value[:, head // shared] if mode == "uniform" else 0
        return out, weights
    home.eager_attention_forward = masked
    try:
        yield
    finally:
        home.eager_attention_forward = own


@pytest.mark.parametrize("mode", ["uniform", "zero"])
@pytest.mark.parametrize("arch", ARCHS)
def test_masked_heads_are_those_of_a_forward_by_hand(arch: str, mode: str) -> None:
    plain = target(arch)
    for heads in (SOME, ALL):
        for text in prompts(3, 97, 4):
            found = said(plain, text, MaskedHeads(heads, mode))  # type: ignore[arg-type]
            mask = torch.full((1, 1, len(text), len(text)), torch.finfo(torch.float32).min).triu(1)
            with torch.inference_mode(), by_hand(plain.model, heads, mode):
                expected = plain.model(torch.tensor([text]), attention_mask=mask,
                                       position_ids=torch.arange(len(text))[None]).logits[0, -1]
            assert torch.allclose(found[0], expected, atol=2e-4)
            assert not torch.allclose(found, said(plain, text, None), atol=1e-2)


@pytest.mark.parametrize("kind", ["sdpa", "kernels"])
@pytest.mark.parametrize("arch", ARCHS)
def test_the_attention_function_makes_no_difference(arch: str, kind: str) -> None:
    tree, text = TokenTree((9, 4, 17), (-1, 0, -1)), prompts(1, 97, 4)[0]
    for mode in ("uniform", "zero"):
        hook = MaskedHeads(SOME, mode)  # type: ignore[arg-type]
        assert torch.allclose(said(target(arch, kind), text, hook, tree), said(target(arch), text, hook, tree),
                              atol=2e-4)
    assert target(arch, kind).model.config._attn_implementation == {"sdpa": "sdpa", "kernels": "decodebench"}[kind]


@pytest.mark.parametrize("kind", ["eager", "kernels"])
def test_nothing_stays(kind: str) -> None:
    plain, text = target("llama", kind), prompts(1, 97, 4)[0]
    before, name = said(plain, text, None), plain.model.config._attn_implementation
    registered = dict(ALL_ATTENTION_FUNCTIONS)
    said(plain, text, MaskedHeads(SOME))
    assert torch.equal(said(plain, text, None), before)
    broken = {plain.parts.layers[1].mlp[0]: _break}
    with pytest.raises(RuntimeError, match="broken"), replaced(broken):
        said(plain, text, MaskedHeads(SOME))
    assert plain.model.config._attn_implementation == name
    assert dict(ALL_ATTENTION_FUNCTIONS) == registered
    assert not any("forward" in module.__dict__ for module in plain.model.modules())
    assert torch.equal(said(plain, text, None), before)


def _break(*args: object, **kwargs: object) -> None:
    raise RuntimeError("broken")


def test_no_heads_change_nothing_and_strange_ones_are_refused() -> None:
    plain, text = target("llama"), prompts(1, 97, 4)[0]
    assert head_counts(plain.parts) == (2, HEADS)
    assert torch.equal(said(plain, text, MaskedHeads(frozenset())), said(plain, text, None))
    for head in ((2, 0), (0, HEADS), (-1, 0)):
        with pytest.raises(Unsupported, match="2 layers of 4 heads"):
            said(plain, text, MaskedHeads(frozenset({head})))


@torch.inference_mode()
def test_a_model_of_one_layer_with_all_heads_masked_pools() -> None:
    """What its attention puts out is the mean of the values, whatever the queries."""
    model = tiny_model("opt", layers=1)
    single, text = engine(model), prompts(1, 97, 4)[0]
    seen = list[Tensor]()
    attention = single.parts.layers[0].attention
    handles = [attention.v_proj.register_forward_hook(lambda module, args, out: seen.append(out)),
               attention.out_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0]))]
    said(single, text, MaskedHeads(frozenset((0, head) for head in range(HEADS))))
    for handle in handles:
        handle.remove()
    values, pooled = seen
    assert torch.allclose(pooled[0, -1], values[0].mean(0), atol=1e-5)


@pytest.mark.parametrize("arch", ARCHS)
@torch.inference_mode()
def test_attention_is_what_transformers_returns(arch: str) -> None:
    text, plain = prompts(1, 97, 4)[0], target(arch)
    for kind in ("eager", "kernels"):
        session = Session(target(arch, kind))
        session.follow(text)
        reading = session.read(EMPTY, WatchAttention((1,)))
        session.close()
        found = reading.captured("attention:1")
        assert found.shape[:2] == (1, HEADS)
        expected = plain.model(torch.tensor([text]), output_attentions=True).attentions[1][0, :, -1]
        assert torch.allclose(found[0, :, :len(text)], expected, atol=1e-4)
        assert float(found[0, :, len(text):].abs().max()) == 0
        assert torch.allclose(reading.logits, said(plain, text, None), atol=2e-4)
        with pytest.raises(KeyError):
            reading.captured("attention:0")


@torch.inference_mode()
def test_side_by_side_is_alone() -> None:
    jobs = [partial(said, target("qwen2"), text, MaskedHeads(SOME)) for text in prompts(scaled(6, 16), 97, 8)]
    for one, other in zip(run_batched([target("qwen2")], jobs), [job() for job in jobs], strict=True):
        assert isinstance(one, Tensor)
        assert torch.allclose(one, other, atol=1e-4)
