"""Every linear layer uses the faster product of its shape, with the results of torch's own."""

import weakref
from typing import Any

import pytest
import torch

from harness.engine.hooks import replaced
from harness.models import products
from harness.models.products import (
    BASES,
    COLUMNS,
    NEVER,
    ONEDNN,
    ROWS,
    VECTOR,
    WIDTHS,
    Choice,
    FastLinear,
    fastest,
    use_fast_products,
)
from tests.harness.models.test_attention import decoded, model

CHOICES = [Choice(ROWS, 1), Choice(ROWS, 2), Choice(ROWS, 8), Choice(ROWS, NEVER), Choice(VECTOR, 8),
           Choice(VECTOR, NEVER), Choice(COLUMNS, 2), Choice(COLUMNS, NEVER)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("name", ["grouped queries", "gpt2"])  # with and without biases; a head that is tied or not
def test_the_logits_are_those_of_the_plain_model(name: str, choice: Choice, dtype: torch.dtype,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_by_rule", lambda *_: choice)
    plain, quick = model(name).to(dtype), model(name).to(dtype)
    assert use_fast_products(quick) == {}
    layers = [layer for layer in quick.modules() if type(layer) is FastLinear]
    assert layers
    assert all(layer.choice == choice for layer in layers)
    near = {"atol": 2e-5, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.05, "rtol": 0.05}
    for rows in (1, 7, 20):
        torch.testing.assert_close(decoded(quick, rows), decoded(plain, rows), **near)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_each_number_of_tokens_is_multiplied_as_chosen(choice: Choice, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = torch.nn.Linear(12, 20)
    linear, vector, calls = torch.nn.functional.linear, products._vector, dict[int, str]()

    def counted(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        calls[input.shape[1]] = ROWS if weight.is_contiguous() else COLUMNS
        return linear(input, weight, bias)

    def multiplied(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        calls[input.shape[1]] = VECTOR
        return vector(input, weight, bias)
    monkeypatch.setattr(products.functional, "linear", counted)
    monkeypatch.setattr(products, "_vector", multiplied)
    quick, widths = FastLinear(layer, choice), (1, 2, 3, 7, 8, 9, 100)
    with torch.inference_mode():
        for tokens in widths:
            torch.testing.assert_close(quick(torch.ones(1, tokens, 12)), layer.weight.sum(1).expand(1, tokens, 20)
                                       + layer.bias)
    several = COLUMNS if choice.base == COLUMNS else ROWS
    assert calls == {tokens: choice.base if tokens == 1 else several for tokens in widths if tokens < choice.first}


def times(*pairs: tuple[float, float], **others: float) -> list[dict[str, float]]:
    """Return the seconds of torch's and oneDNN's products at each width; `others` are those at one token."""
    made = [{ROWS: torch, COLUMNS: 9.0, ONEDNN: onednn} for torch, onednn in pairs]
    made[0] |= {VECTOR: others.get("vector", 9.0), COLUMNS: others.get("columns", 9.0)}
    return made


def test_the_faster_product_is_chosen() -> None:
    always, never = [(2.0, 1.0)] * len(WIDTHS), [(1.0, 2.0)] * len(WIDTHS)
    assert (fastest(times(*always)), fastest(times(*never))) == (Choice(ROWS, 1), Choice(ROWS, NEVER))
    for index, width in enumerate(WIDTHS[1:], start=1):
        assert fastest(times(*never[:index], *always[index:])) == Choice(ROWS, width)
    small = times((1.0, 1.01), (1.0, 3.0), (1.01, 1.0), (3.0, 1.0), (3.0, 1.0))
    assert fastest(small) == Choice(ROWS, 4), "a small gain decides little"
    assert fastest([{ROWS: 1.5, COLUMNS: 1.0, ONEDNN: 9.0}, *[{ROWS: 1.0, COLUMNS: 1.4, ONEDNN: 9.0}] * 4]).base == \
        COLUMNS, "one token counts as much as the rest"
    assert fastest(times(*always, vector=0.5)) == Choice(VECTOR, 2)
    assert fastest(times(*always, columns=0.5)) == Choice(COLUMNS, 2)
    assert fastest(times(*never, vector=0.5)) == Choice(VECTOR, NEVER)


def test_one_copy_of_the_weights_is_for_all_numbers_of_tokens() -> None:
    assert fastest(times((1.0, 1.5), *[(2.0, 1.0)] * 4), single=True) == Choice(ROWS, 1)
    assert fastest(times((1.0, 9.0), *[(2.0, 1.0)] * 4), single=True) == Choice(ROWS, NEVER)
    assert fastest(times((9.0, 9.0), *[(2.0, 1.0)] * 4, vector=1.0), single=True) == Choice(VECTOR, NEVER)
    columns = [{ROWS: 2.0, COLUMNS: 1.0, ONEDNN: 2.0} for _ in WIDTHS]
    assert fastest(columns, single=True) == Choice(COLUMNS, NEVER)


def test_only_a_larger_model_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = list[tuple[int, bool]]()

    def timed(layers: list[Any], single: bool) -> Choice:
        measured.append((len(layers), single))
        return Choice(VECTOR, 8) if layers[0].out_features == 97 else Choice(ROWS, NEVER)
    monkeypatch.setattr(products, "_by_time", timed)
    assert use_fast_products(model("llama")) == {}
    assert not measured
    monkeypatch.setattr(products, "SMALL", 1000)
    assert use_fast_products(model("llama")) == {
        "64 × 64": "torch", "64 × 96": "torch", "64 × 97": "torch mv, oneDNN from 8 tokens", "96 × 64": "torch"}
    assert sorted(measured) == [(1, False), (2, False), (4, False), (8, False)]


def test_a_model_that_is_measured_gets_one_of_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "SMALL", 1000)
    plain, quick = model("llama"), model("llama")
    words = use_fast_products(quick)
    assert set(words.values()) <= {str(Choice(base, first)) for base in BASES for first in (*WIDTHS, NEVER)}
    torch.testing.assert_close(decoded(quick, 3), decoded(plain, 3), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("choice", [Choice(ROWS, 1), Choice(COLUMNS, NEVER)], ids=str)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_large_model_keeps_one_copy_of_its_weights(name: str, choice: Choice, monkeypatch: pytest.MonkeyPatch
                                                     ) -> None:
    monkeypatch.setattr(products, "DOUBLED", 1000)
    monkeypatch.setattr(products, "_by_rule", lambda *_: choice)
    plain, quick = model(name), model(name)
    use_fast_products(quick)
    tied = quick.lm_head.weight is quick.get_input_embeddings().weight
    assert tied == (name == "gpt2")
    assert tied or quick.lm_head.weight.is_meta == (choice.first == 1)
    assert tied or quick.lm_head.weight.is_contiguous() == (choice.base != COLUMNS)
    assert sum(one.numel() for one in quick.parameters()) == sum(one.numel() for one in plain.parameters())
    torch.testing.assert_close(decoded(quick, 20), decoded(plain, 20), atol=2e-5, rtol=1e-4)
    compiled = model(name)
    use_fast_products(compiled, both=True)
    assert not any(one.is_meta for one in compiled.parameters())


def test_a_large_model_is_in_memory_once_while_its_layers_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "DOUBLED", 1000)
    quick, copied = model("llama"), list[bool]()
    plain = [weakref.ref(layer) for layer in quick.modules() if type(layer) is torch.nn.Linear]

    class Counted(FastLinear):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            copied.append(len(copied) + sum(one() is not None for one in plain) <= len(plain) + 1)
            super().__init__(*arguments, **more)
    monkeypatch.setattr(products, "FastLinear", Counted)
    use_fast_products(quick)
    assert len(copied) == len(plain) > 9
    assert all(copied)
    assert not any(one() for one in plain)


def test_a_layer_that_is_left_out_is_left_out() -> None:
    quick = model("llama")
    use_fast_products(quick)
    with replaced({quick.lm_head: torch.zeros_like}):
        assert not quick(input_ids=torch.tensor([[5, 6]])).logits.any()
    assert quick(input_ids=torch.tensor([[5, 6]])).logits.any()


def test_the_weights_keep_their_names() -> None:
    plain, quick = model("llama"), model("llama")
    weights = {name: weight.data_ptr() for name, weight in quick.named_parameters()}
    use_fast_products(quick)
    assert quick.state_dict().keys() == plain.state_dict().keys()
    assert {name: weight.data_ptr() for name, weight in quick.named_parameters()} == weights
    assert [module.training for module in quick.modules()] == [module.training for module in plain.modules()]
