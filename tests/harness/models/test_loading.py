"""Which models can be used, which are refused, and what is said of them."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import AddedToken

from harness.engine.batching import run_batched
from harness.errors import UserError
from harness.models.loading import load
from strategies.beam import Beam
from strategies.greedy import Greedy
from tests.decode import decode
from tests.models import ARCHS, tiny_model
from tests.pair import VOCAB, saved, tokenizer

SIZES: dict[str, Any] = {"vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
USABLE: dict[str, Callable[[], Any]] = {
    "phi3": lambda: transformers.Phi3ForCausalLM(transformers.Phi3Config(**SIZES, pad_token_id=0)),
    "gemma2, eager only": lambda: transformers.Gemma2ForCausalLM(transformers.Gemma2Config(
        **SIZES, head_dim=16, sliding_window=256)),
    "neox": lambda: transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256)),
}
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a state in the modules": (lambda: transformers.RecurrentGemmaForCausalLM(transformers.RecurrentGemmaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=1, lru_width=32)), "carries a state, and decodebench cannot tell"),
    "an unknown state": (lambda: transformers.MiniMaxForCausalLM(transformers.MiniMaxConfig(
        **SIZES, head_dim=16, num_local_experts=2)), "carries a state, and decodebench cannot tell"),
    "no start": (lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(
        vocab_size=VOCAB, d_model=32, d_ff=64, num_layers=2, num_heads=2, d_kv=16)), "no decoder_start_token_id"),
    "unknown encoder-decoder": (lambda: transformers.PegasusXForConditionalGeneration(transformers.PegasusXConfig(
        vocab_size=VOCAB, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, decoder_start_token_id=0)),
        "cannot tell how positions enter its decoder"),
    "own positions": (lambda: transformers.BloomForCausalLM(transformers.BloomConfig(
        vocab_size=VOCAB, hidden_size=64, n_layer=2, n_head=4)), "KV cache|tree masks"),
}


def on_disk(model: Any, folder: Path) -> str:
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_classes_of_the_contract_load(arch: str) -> None:
    model = load(str(saved(arch)))
    assert (model.vocab, model.eos, model.engine.max_len) == (VOCAB, frozenset({2}), 512)
    assert load(str(saved(arch))).fingerprint == model.fingerprint


def test_a_model_is_known_wherever_it_lies_and_by_any_of_its_weights(tmp_path: Path) -> None:
    model = saved("llama")
    known = load(str(model)).fingerprint
    assert load(str(shutil.copytree(model, tmp_path / "copy"))).fingerprint == known
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config | {"transformers_version": "5.0.0"}))
    assert load(str(tmp_path / "copy")).fingerprint == known
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-4}))
    assert load(str(tmp_path / "copy")).fingerprint != known
    other = transformers.AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        other.model.layers[-1].mlp.down_proj.weight *= 1.001
    assert load(on_disk(other, tmp_path / "other")).fingerprint != known


@pytest.mark.parametrize("name", USABLE)
def test_other_attention_models_load(name: str, tmp_path: Path) -> None:
    assert load(on_disk(USABLE[name](), tmp_path)).engine.max_len == 256


@pytest.mark.parametrize("name", REFUSED)
def test_models_without_a_cache_of_slots_are_refused(name: str, tmp_path: Path) -> None:
    make, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as caught:
        load(on_disk(make(), tmp_path))
    assert "\n" not in str(caught.value)


def test_broken_folders_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    place = on_disk(USABLE["neox"](), folder)
    weights = folder / "model.safetensors"
    whole = load_file(weights)
    save_file({name: value for name, value in whole.items() if "layers.1" not in name}, weights, {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks \d+ of the model's weights"):
        load(place)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be loaded"):
        load(place)
    (folder / "config.json").write_text("{broken")
    with pytest.raises(UserError, match="not a valid JSON file") as caught:
        load(place)
    assert "\n" not in str(caught.value)


def test_a_sliding_window_does_not_limit_the_length(tmp_path: Path) -> None:
    config = transformers.MistralConfig(**SIZES, sliding_window=32)
    assert load(on_disk(transformers.MistralForCausalLM(config), tmp_path)).engine.max_len == 256


def test_no_name_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("", ":bfloat16"):
        with pytest.raises(UserError, match="There is no model ''"):
            load(name)


def test_a_model_without_a_tokenizer(tmp_path: Path) -> None:
    on_disk(transformers.Phi3ForCausalLM(transformers.Phi3Config(**SIZES, pad_token_id=0)), tmp_path)
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(UserError, match="--tokenizer"):
        load(str(tmp_path))
    assert load(str(tmp_path), tokenizer=str(saved("llama"))).vocab == VOCAB


def test_a_tokenizer_with_tokens_that_the_model_lacks(tmp_path: Path) -> None:
    small = on_disk(tiny_model("llama", vocab=VOCAB - 9), tmp_path / "small")
    with pytest.raises(UserError, match=f"has 9 token ids that '{small}' lacks, which has {VOCAB - 9} embeddings"):
        load(small)
    padded = tokenizer()
    padded.add_special_tokens({"pad_token": "<padding>"})
    padded.add_tokens(AddedToken("<image>", special=True))
    padded.save_pretrained(tmp_path / "padded")
    assert len(padded) == VOCAB + 2
    shutil.copy(saved("llama") / "config.json", tmp_path / "padded")
    assert load(str(saved("llama")), tokenizer=str(tmp_path / "padded")).vocab == VOCAB


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_passes_the_self_check(dtype: str) -> None:
    assert load(str(saved("qwen2")), dtype=dtype).engine.model.dtype != load(str(saved("qwen2"))).engine.model.dtype


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_decodes_the_same(tmp_path: Path) -> None:
    """One layer and few shapes: each of its graphs takes ten seconds to compile."""
    folder = on_disk(tiny_model("llama", vocab=VOCAB, layers=1), tmp_path)
    plain, compiled = load(folder), load(folder, compiled=True)
    for strategy in (Greedy(), Beam(width=3)):
        assert decode(strategy, compiled.engine, [5, 6, 7]) == decode(strategy, plain.engine, [5, 6, 7])
    prompts = [list(range(5, 5 + length)) for length in (3, 40)]
    jobs = [partial(decode, Greedy(), compiled.engine, prompt) for prompt in prompts]
    assert run_batched([compiled.engine], jobs) == [decode(Greedy(), plain.engine, prompt) for prompt in prompts]


def test_compiling_without_a_compiler_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="needs a C\\+\\+ compiler"):
        load(str(saved("llama")), compiled=True)
