"""The training of mixers in place of nano's attention."""

from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from harness import nano
from harness.engine.hooks import replaced
from harness.laboratory import mamba
from harness.models.loading import load
from harness.nano import packed


@pytest.fixture(scope="module")
def plain() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(nano.weights("nano"), dtype=torch.float32)


def test_products_of_pairs_give_what_the_scan_gives(plain: LlamaForCausalLM) -> None:
    torch.manual_seed(0)
    model, ids = mamba.start(plain).eval(), torch.randint(0, 2048, (2, 90))
    mixers = [layer.mamba for layer in model.model.layers]
    with torch.no_grad():
        scanned = model(ids, use_cache=False).logits
        with replaced({mixer: partial(mamba.mixed, mixer) for mixer in mixers}):
            paired = model(ids, use_cache=False).logits
    assert torch.allclose(scanned, paired, atol=1e-3)


def test_all_but_the_mixers_is_that_of_nano_and_stays(plain: LlamaForCausalLM) -> None:
    model, weights = mamba.start(plain), plain.state_dict()
    layer, old = model.model.layers[3], plain.model.layers[3]
    states = torch.randn(2, 5, plain.config.hidden_size)
    assert torch.allclose(layer.shared_mlp(states), old.mlp(states), atol=1e-5)
    assert torch.equal(model.model.embed_tokens.weight, weights["model.embed_tokens.weight"])
    assert {".mamba." in name for name, weight in model.named_parameters() if weight.requires_grad} == {True}
    assert all(weight.requires_grad for name, weight in model.named_parameters() if ".mamba." in name)


def test_mixers_learn_what_attention_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"COUNTS": {"edit": 40}, "HELD_OUT": {"edit": 4}, "TOKENS": 256}.items():
        monkeypatch.setattr(mamba, name, value)
    lost = list[float]()
    step = mamba.MambaTraining.gradients
    monkeypatch.setattr(mamba.MambaTraining, "gradients",
                        lambda self, number: lost.append(step(self, number)) or lost[-1])
    mamba.main(["--out", str(tmp_path), "--steps", "8", "--align", "7", "--rate", "2e-2"])
    assert lost[6] < 0.9 * lost[0]
    assert {name.split(".")[3] for name in packed.load(tmp_path)} == {"mamba"}
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 1.5e6
    assert not (tmp_path / "training.pt").exists()
    model, trained = load(str(tmp_path)), packed.load(tmp_path)
    weights, plain = model.engine.model.state_dict(), load("nano").engine.model.state_dict()
    assert model.tokenizer.get_vocab() == load("nano").tokenizer.get_vocab()
    assert all(torch.equal(weights[name], one) for name, one in trained.items())
    assert torch.equal(weights["model.layers.4.shared_mlp.output_linear.weight"],
                       plain["model.layers.4.mlp.down_proj.weight"])
    assert torch.equal(weights["lm_head.weight"], plain["lm_head.weight"])
