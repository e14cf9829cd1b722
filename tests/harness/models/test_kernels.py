"""The kernels for many texts say what the library's own say, and stay away where they do not apply."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from harness.engine.engine import Engine
from harness.engine.forward import ForwardRequest, ForwardRows
from harness.engine.hooks import replaced
from harness.models import kernels
from harness.models.kernels import FEW, NAME, FastLinear, use_cpu_kernels

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


@pytest.mark.parametrize("amd", [True, False])
@pytest.mark.parametrize("rows", [1, FEW - 1, FEW, 37])
@pytest.mark.parametrize("name", MAKE)
def test_the_logits_are_those_of_the_plain_model(name: str, rows: int, amd: bool,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "amd", lambda: amd)
    monkeypatch.setattr(kernels, "LARGE", 1)
    plain, quick = model(name), model(name)
    use_cpu_kernels(quick)
    assert quick.config._attn_implementation == NAME
    layers = [layer for layer in quick.modules() if type(layer) is FastLinear]
    assert all((layer.weights[3] == sys.maxsize) != amd for layer in layers)
    torch.testing.assert_close(decoded(quick, rows), decoded(plain, rows), atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_generate_writes_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "amd", lambda: True)
    monkeypatch.setattr(kernels, "LARGE", 1)
    plain, quick = model("grouped queries"), model("grouped queries")
    use_cpu_kernels(quick)
    ids = torch.randint(5, 97, (20, 9), generator=torch.Generator().manual_seed(0))
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 20, "pad_token_id": 0}
    for more in ({"do_sample": False}, {"num_beams": 3, "do_sample": False}):
        assert quick.generate(ids, **options, **more).tolist() == plain.generate(ids, **options, **more).tolist()


def test_large_models_keep_no_second_copy_of_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "amd", lambda: True)
    monkeypatch.setattr(kernels, "PACKED", 1000)
    monkeypatch.setattr(kernels, "LARGE", 1)
    plain, quick = model("llama"), model("llama")
    use_cpu_kernels(quick)
    assert quick.lm_head.weights[2].data_ptr() == quick.lm_head.weight.data_ptr()
    torch.testing.assert_close(decoded(quick, 20), decoded(plain, 20), atol=2e-5, rtol=1e-4)


def test_a_layer_that_is_left_out_is_left_out() -> None:
    quick = model("llama")
    use_cpu_kernels(quick)
    with replaced({quick.lm_head: torch.zeros_like}):
        assert not quick(input_ids=torch.tensor([[5, 6]])).logits.any()
    assert quick(input_ids=torch.tensor([[5, 6]])).logits.any()


def test_the_weights_keep_their_names() -> None:
    plain, quick = model("llama"), model("llama")
    weights = {name: weight.data_ptr() for name, weight in quick.named_parameters()}
    use_cpu_kernels(quick)
    assert quick.state_dict().keys() == plain.state_dict().keys()
    assert {name: weight.data_ptr() for name, weight in quick.named_parameters()} == weights
    assert [module.training for module in quick.modules()] == [module.training for module in plain.modules()]


@pytest.mark.parametrize("change", ["eager", "bfloat16"])
def test_other_models_are_left_as_they_are(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "amd", lambda: change == "bfloat16")
    other = model("llama")
    if change == "eager":
        other.config._attn_implementation = "eager"
    else:
        other = other.bfloat16()
    before = other.config._attn_implementation
    use_cpu_kernels(other)
    assert other.config._attn_implementation == before
    assert change == "eager" or not any(type(layer) is FastLinear for layer in other.modules())


def test_rows_are_grouped_by_the_last_place_they_see() -> None:
    mask = torch.full((20, 1, 1, 64), torch.finfo(torch.float32).min)
    lengths = [1 + 11 * i % 60 for i in range(20)]
    for row, length in enumerate(lengths):
        mask[row, ..., :length] = 0
    mask[4, ..., 2:lengths[4] - 1] = torch.finfo(torch.float32).min
    groups, back = kernels._groups(mask)
    order = torch.cat([rows for rows, _, _ in groups])
    assert order[back].tolist() == list(range(20))
    assert [end for _, end, _ in groups] == [max(lengths[i] for i in rows.tolist()) for rows, _, _ in groups]
