"""Long texts for training, the change that makes nano-long of nano, and its training."""

import math
import random
from pathlib import Path

import pytest
import torch
from torch import nn

from harness import nano
from harness.backends.vllm import place
from harness.errors import UserError
from harness.laboratory import lengthen
from harness.models.loading import load
from harness.nano import attention, change
from harness.nano.corpus import problems
from harness.nano.long_texts import asked_text, stories_in_a_row
from harness.nano.sizes import tokens
from harness.nano.summaries import sentences_of, summary
from harness.nano.tokenizer import END
from harness.run.loading import draft_name
from harness.store.config import RunConfig


@pytest.mark.parametrize("length", [60, 400, 1500])
def test_answers_are_the_sentences_that_the_rule_of_summaries_asks_for(length: int) -> None:
    for seed in range(5):
        (text, weight), *rest = asked_text(random.Random(seed), tokens, length)
        assert weight == 0
        questions, answers, ends = rest[::3], rest[1::3], rest[2::3]
        assert {weight for _, weight in (*answers, *ends)} == {1.0}
        assert {end for end, _ in ends} == {END}
        for (question, zero), (answer, _) in zip(questions, answers, strict=True):
            sentences, name = sentences_of(f"{text}{question}")
            right = summary(sentences, name)
            assert zero == 0
            assert answer == f" {' '.join(right)}"
            bare = name.removeprefix("the ").lower()
            assert not [one for one in sentences if one not in right and bare in one.lower().rstrip(".").split()]


def test_a_text_has_its_length_and_a_question_for_each_part_of_it() -> None:
    for length, questions in ((100, 1), (600, 6), (2400, 13)):
        pieces = asked_text(random.Random(1), tokens, length)
        assert 0.95 * length - 20 <= tokens(pieces[0][0]) <= length + 60
        assert len(pieces) == 1 + 3 * questions
    assert asked_text(random.Random(1), tokens, 100) == asked_text(random.Random(1), tokens, 100)


def test_stories_follow_each_other_up_to_the_length() -> None:
    some = problems("story", "train", 9)
    pieces = stories_in_a_row(iter(some), tokens, 700)
    text = "".join(piece for piece, _ in pieces)
    assert text.startswith(f"{some[0].turns[0]}{some[0].answers[0]}\n{some[1].turns[0]}")
    assert sum(tokens(piece) for piece, _ in pieces[:-2]) < 700 <= sum(tokens(piece) for piece, _ in pieces)


@pytest.mark.parametrize("length", [2, 3, 7])
def test_attention_in_blocks_is_attention_and_so_are_its_gradients(length: int, monkeypatch: pytest.MonkeyPatch
                                                                    ) -> None:
    monkeypatch.setattr(attention, "BLOCK", 3)
    torch.manual_seed(0)
    states = torch.randn(3, 1, 2, length, 4)
    wanted = torch.nn.functional.scaled_dot_product_attention(*states, is_causal=True).transpose(1, 2)
    gradients = []
    for kind in (attention.causal_attention, attention.frugal_attention):
        inputs = [one.clone().requires_grad_() for one in states]
        found, _ = kind(nn.Module(), *inputs, None, 0.5)
        assert torch.allclose(found, wanted, atol=1e-6)
        found.square().sum().backward()
        gradients.append([one.grad for one in inputs])
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(*gradients, strict=True))


def test_a_change_is_added_to_the_weights_that_it_names(tmp_path: Path) -> None:
    model, up, down = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), torch.tensor([[1.0], [2]]), torch.ones(1, 3)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    change.save({"0.weight": (up, down)}, tmp_path)
    change.add(model, tmp_path)
    after = model.state_dict()
    assert torch.allclose(after.pop("0.weight"), before.pop("0.weight") + torch.tensor([[1.0] * 3, [2.0] * 3]))
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_nano_long_is_nano_with_a_change_of_low_rank_that_ships_small() -> None:
    long, plain = load("nano-long"), load("nano")
    assert sum(file.stat().st_size for file in nano.weights("nano-long").iterdir()) < 1.3e6
    for name, weight in long.engine.model.named_parameters():
        difference = weight.double() - plain.engine.model.get_parameter(name).double()
        rank = int(torch.linalg.matrix_rank(difference, rtol=1e-4)) if difference.dim() == 2 else 0
        assert (1 <= rank <= 16) == ("proj" in name), name
    assert long.text_identity == plain.text_identity
    assert long.fingerprint != plain.fingerprint
    assert long.engine.max_len == 3200
    assert long.engine.model.get_decoder().rotary_emb.attention_scaling == pytest.approx(0.1 * math.log(8) + 1)


def test_nano_long_has_the_draft_model_of_nano_and_no_folder_for_vllm() -> None:
    assert draft_name(RunConfig(model="nano-long")) == "nano-draft"
    assert draft_name(RunConfig(model="nano-draft")) is None
    with pytest.raises(UserError, match="nano-long is nano with a change of its weights, which vLLM cannot add"):
        place("nano-long")


def test_a_training_that_was_stopped_goes_on_to_the_same_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                ) -> None:
    for name, value in {"SHORT": {"math": 6}, "SHORT_TOKENS": 48, "STORIES": 40, "HELD_OUT": (40,), "SHORTEST": 40,
                        "FIRST_LONGEST": 50, "LONGEST": 60, "REPORT": 2}.items():
        monkeypatch.setattr(lengthen, name, value)
    options = ["--steps", "8", "--rank", "2", "--keep", "3"]  # stopped after 2, 4 and 6 steps
    lengthen.main(["--out", str(tmp_path / "whole"), *options])
    kept = lengthen.Lengthening._keep

    def stop(self: lengthen.Lengthening) -> None:
        kept(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(lengthen.Lengthening, "_keep", stop)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            lengthen.main(["--out", str(tmp_path / "parts"), *options])
    monkeypatch.setattr(lengthen.Lengthening, "_keep", kept)
    lengthen.main(["--out", str(tmp_path / "parts"), *options])
    whole, parts = ((tmp_path / name / change.FILE).read_bytes() for name in ("whole", "parts"))
    assert whole == parts
    assert sorted(file.name for file in (tmp_path / "parts").iterdir()) == [change.FILE, "training.json"]
