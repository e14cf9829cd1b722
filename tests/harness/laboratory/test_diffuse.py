"""The training of nano as a model that fills masks."""

import random
from array import array
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from harness import nano
from harness.decoding.canvas import block_mask
from harness.engine.canvas_settings import CanvasSettings
from harness.laboratory import diffuse
from harness.laboratory.pairs import Pair
from harness.models.loading import load
from harness.nano import packed

MASK, SIZE = 60, 3 * diffuse.BLOCK


def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=MASK + 1, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        attn_implementation="eager", initializer_range=0.4)).eval()


def masked(blocks: bool, seed: int = 0) -> diffuse.Masked:
    some = [Pair(array("H", range(3, 3 + size)), array("H", [*range(20, 30 + size), 0])) for size in (4, 11, 20)]
    return diffuse.Masked(some, 0, random.Random(seed), torch.Generator().manual_seed(seed), blocks)


def test_noised_and_clean_texts_side_by_side_equal_forwards_by_blocks() -> None:
    model, batch = tiny(), masked(blocks=True)
    size, noised = batch.ids.shape[1], batch.ids.masked_fill(batch.masked, MASK)
    wanted = torch.zeros(())
    for start in range(0, size, diffuse.BLOCK):
        end = start + diffuse.BLOCK
        ids = torch.cat([batch.ids[:, :start], noised[:, start:end]], 1)
        seen = block_mask(0, end, diffuse.BLOCK, torch.float32, torch.device("cpu"))[None, None]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=ids, attention_mask=seen).logits.float()[..., :MASK].log_softmax(-1)
        for row, place in batch.masked[:, start:end].nonzero().tolist():
            chance = logits[row, start + place - 1, batch.ids[row, start + place]]
            wanted -= chance * batch.weights[row, start + place]
    with torch.no_grad():
        assert torch.isclose(diffuse.fill_loss(model, batch, MASK), wanted, rtol=2e-2)


def test_prompts_are_never_masked_and_padding_counts_nothing() -> None:
    for seed in range(20):
        batch = masked(blocks=bool(seed % 2), seed=seed)
        for row, size in enumerate((4, 11, 20)):
            assert not batch.masked[row, :size].any()
        assert not batch.masked[~batch.inside.expand_as(batch.masked)].any()


def test_a_mask_counts_one_over_its_chance() -> None:
    """So the expected weight of every token of an answer is one, whatever its chance."""
    total = sum(masked(blocks=bool(seed % 2), seed=seed).weights.sum().item() for seed in range(400))
    counted = sum(masked(blocks=bool(seed % 2), seed=seed).counted for seed in range(400))
    assert total / counted == pytest.approx(1.0, abs=0.05)


def test_nano_goes_on_predicting_the_next_token_before_it_is_trained(tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = AutoTokenizer.from_pretrained(nano.weights("nano"))
    model, plain = diffuse.start(tokenizer), LlamaForCausalLM.from_pretrained(nano.weights("nano"), dtype=torch.float32)
    ids = tokenizer("Text: Tom is tired.", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.allclose(model(ids).logits[..., :-1], plain(ids).logits, atol=1e-4)
    for name, value in {"COUNTS": {"list": 40}, "HELD_OUT": 4, "TOKENS": 256, "BLOCK_TOKENS": 256}.items():
        monkeypatch.setattr(diffuse, name, value)
    diffuse.main(["--out", str(tmp_path), "--steps", "2"])
    assert {one.name for one in tmp_path.iterdir()} == {"config.json", packed.FILE, "training.json"}
    made = load(str(tmp_path))
    assert made.engine.canvas == CanvasSettings(2048, shift=True, block=diffuse.BLOCK, both=True)
    name = "model.layers.4.mlp.down_proj.weight"
    change = made.engine.model.state_dict()[name] - plain.state_dict()[name]
    assert torch.allclose(change, packed.load(tmp_path)[name], atol=1e-6)
    assert change.abs().max() > 0
