"""The attention of large batches gives the logits of the library's own, and stays away where it does not apply."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from harness.engine.engine import Engine
from harness.engine.forward import ForwardRequest, ForwardRows
from harness.models.attention import FEW, NAME, _groups, use_fast_attention
from harness.models.products import NEVER, ROWS, Choice, FastLinear, use_fast_products

SIZES: dict[str, Any] = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
                         "num_attention_heads": 4, "max_position_embeddings": 256, "attn_implementation": "sdpa"}
MAKE: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)),
    "grouped queries": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZES, num_key_value_heads=2)),
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=97, n_embd=64, n_head=4, n_layer=2, attn_implementation="sdpa")),
}


def model(name: str) -> Any:
    torch.manual_seed(3)
    return MAKE[name]().eval()


@torch.inference_mode()
def decoded(target: Any, rows: int) -> list[torch.Tensor]:
    """Logits of texts of many lengths: their prompts, then three single tokens."""
    engine = Engine(target, 256)
    places = [engine.open_row() for _ in range(rows)]
    said: list[ForwardRows] = []
    for step in range(4):
        news = [list(range(3, 4 + 7 * i % 60)) if not step else [5 + i % 9 + step] for i in range(rows)]
        starts = [row.end for row in places]
        said += engine.run([ForwardRequest(row, start, new, range(start, start + len(new)), None, 1)
                            for row, start, new in zip(places, starts, news, strict=True)])
    return [each.part(len(each.hidden) - 1, len(each.hidden)).logits for each in said]


@pytest.mark.parametrize("rows", [1, FEW - 1, FEW, 37])
@pytest.mark.parametrize("name", MAKE)
def test_the_logits_are_those_of_the_plain_model(name: str, rows: int) -> None:
    plain, quick = model(name), model(name)
    use_fast_attention(quick)
    assert quick.config._attn_implementation == NAME
    torch.testing.assert_close(decoded(quick, rows), decoded(plain, rows), atol=2e-5, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("first", [1, NEVER])
def test_generate_writes_the_same_tokens(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.models.products._by_rule", lambda *_: Choice(ROWS, first))
    plain, quick = model("grouped queries"), model("grouped queries")
    use_fast_attention(quick)
    use_fast_products(quick)
    assert type(quick.lm_head) is FastLinear
    ids = torch.randint(5, 97, (20, 9), generator=torch.Generator().manual_seed(0))
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 20, "pad_token_id": 0}
    for more in ({"do_sample": False}, {"num_beams": 3, "do_sample": False}):
        assert quick.generate(ids, **options, **more).tolist() == plain.generate(ids, **options, **more).tolist()


@pytest.mark.parametrize("change", ["eager", "bfloat16"])
def test_other_models_are_left_as_they_are(change: str) -> None:
    other = model("llama")
    if change == "eager":
        other.config._attn_implementation = "eager"
    else:
        other = other.bfloat16()
    before = other.config._attn_implementation
    use_fast_attention(other)
    assert other.config._attn_implementation == before


def test_rows_are_grouped_by_the_last_place_they_see() -> None:
    mask = torch.full((20, 1, 1, 64), torch.finfo(torch.float32).min)
    lengths = [1 + 11 * i % 60 for i in range(20)]
    for row, length in enumerate(lengths):
        mask[row, ..., :length] = 0
    mask[4, ..., 2:lengths[4] - 1] = torch.finfo(torch.float32).min
    groups, back = _groups(mask)
    order = torch.cat([rows for rows, _, _ in groups])
    assert order[back].tolist() == list(range(20))
    assert [end for _, end, _ in groups] == [max(lengths[i] for i in rows.tolist()) for rows, _, _ in groups]
