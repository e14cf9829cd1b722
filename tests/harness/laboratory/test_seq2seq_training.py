"""The training of encoder-decoder models."""

import argparse
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, MarianMTModel

from harness.backends.vllm import place
from harness.errors import UserError
from harness.laboratory import pairs as data
from harness.laboratory import resumable, seq2seq
from harness.models.loading import load
from harness.nano import packed

COUNTS = {"edit": 60, "record": 60}
SMALL = ["--encoder", "1", "--decoder", "1", "--steps"]


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"COUNTS": COUNTS, "HELD_OUT": 4, "TOKENS": 512}.items():
        monkeypatch.setattr(seq2seq, name, value)
    monkeypatch.setattr(resumable, "REPORT", 2)


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    seq2seq.main(["--out", str(whole), *SMALL, "4"])
    step = seq2seq.Seq2SeqTraining.gradients
    made = list[int]()

    def broken(self: seq2seq.Seq2SeqTraining, number: int) -> float:
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(1)
        return step(self, number)
    monkeypatch.setattr(seq2seq.Seq2SeqTraining, "gradients", broken)
    with pytest.raises(KeyboardInterrupt):
        seq2seq.main(["--out", str(halves), *SMALL, "4"])
    monkeypatch.setattr(seq2seq.Seq2SeqTraining, "gradients", step)
    seq2seq.main(["--out", str(halves), *SMALL, "4"])
    first, second = packed.load(whole), packed.load(halves)
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    assert not (halves / "training.pt").exists()


def test_what_is_written_is_the_whole_model(tmp_path: Path) -> None:
    seq2seq.main(["--out", str(tmp_path), *SMALL, "2"])
    model = MarianMTModel(AutoConfig.from_pretrained(tmp_path))
    found = model.load_state_dict(packed.load(tmp_path), strict=False)
    assert not found.unexpected_keys
    tied = {"lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"}
    assert all(name in tied or "positions" in name or name == "final_logits_bias" for name in found.missing_keys)


def test_a_folder_that_cannot_be_used_is_told_in_a_sentence(tmp_path: Path) -> None:
    seq2seq.main(["--out", str(tmp_path), *SMALL, "1"])
    with pytest.raises(UserError, match=r"weights in a form that vLLM cannot read"):
        place(str(tmp_path))
    weights = packed.load(tmp_path)
    packed.save({name: one for name, one in weights.items() if "fc1" not in name}, tmp_path)
    with pytest.raises(UserError, match=r"lacks 4 of the model's weights \(model.decoder.layers.0.fc1.bias for one\)"):
        load(str(tmp_path))
    torch.save({"model": {"model.shared.weight": torch.zeros(3, 3)}}, tmp_path / "training.pt")
    with pytest.raises(UserError, match=r"of another model; give another --out"):
        seq2seq.Seq2SeqTraining(argparse.Namespace(out=tmp_path, seed=0, rate=1e-3, encoder=1, decoder=1))


def test_the_decoder_reads_the_token_before_each_label() -> None:
    from array import array
    batch = data.pair_batch([data.Pair(array("H", [5, 6]), array("H", [7, 8, 0])),
                             data.Pair(array("H", [9]), array("H", [4, 0]))], 3)
    assert batch.source.tolist() == [[5, 6], [9, 0]]
    assert batch.mask.tolist() == [[1, 1], [1, 0]]
    assert batch.given.tolist() == [[3, 7, 8], [3, 4, 0]]
    assert batch.labels.tolist() == [[7, 8, 0], [4, 0, -100]]
