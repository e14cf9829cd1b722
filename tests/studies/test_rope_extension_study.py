"""The study of RoPE extension: its blocks, its perplexities against a plain forward, and its table."""

import math
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from harness.errors import UserError
from harness.models.loading import load
from harness.nano.corpus import problems
from harness.plugins.registry import STUDIES
from harness.plugins.study import Setting
from harness.store.config import RunConfig
from studies import rope_extension
from studies.rope_extension import RopeExtension, blocks, with_length


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FIRST": 16, "RULES": ("ntk",), "LENGTHS": (64,),
                        "TASK": "nano_needle:depths=2,needles=1"}.items():
        monkeypatch.setattr(rope_extension, name, value)


def test_each_block_is_as_long_as_all_before_it() -> None:
    assert blocks(256) == [256]
    assert blocks(2048) == [256, 512, 1024, 2048]
    assert blocks(2047) == [256, 512, 1024]


def test_rules_are_written_for_the_option() -> None:
    assert RopeExtension().rules() == [f"{rule}:{factor}" for rule in ("ntk", "linear", "yarn") for factor in (4, 8)]
    assert RopeExtension(factor=2).rules() == ["ntk:2", "linear:2", "yarn:2"]
    nano, other = RunConfig(model="nano"), RunConfig(model="other")
    assert [RopeExtension()._trained(each) for each in (nano, other)] == [":400", ""]
    assert [RopeExtension(original=64)._trained(each) for each in (nano, other)] == [":64", ":64"]


def test_a_task_gets_its_length() -> None:
    assert with_length("nano_needle", 512) == "nano_needle:length=512,depths=5,needles=8,sentences=1,question=last"
    assert with_length("nano_needle:depths=3", 64).startswith("nano_needle:length=64,depths=3,")
    with pytest.raises(UserError, match="give -t once"):
        RopeExtension().table(Setting(RunConfig(tasks=("nano_math", "nano_edit"), device="cpu"), Path(), print))
    with pytest.raises(UserError, match="a knob 'length', such as nano_needle, not nano_math"):
        with_length("nano_math", 64)


@pytest.mark.usefixtures("small")
@torch.inference_mode()
def test_perplexities_are_those_of_a_plain_forward() -> None:
    study, model = RopeExtension(length=256, texts=2), load("nano", rope="yarn:4:32")
    found = study.perplexities(RunConfig(model="nano", rope="yarn:4:32", device="cpu", threads=1))
    stories = [f"{one.turns[0]}{one.answers[0]}" for one in problems("story", "dev", 6)]
    losses = []
    for some in (stories[:3], stories[3:]):
        ids = torch.tensor([model.tokenizer("\n".join(some))["input_ids"][:256]])
        logits = model.engine.model(input_ids=ids, use_cache=False).logits[0]
        losses.append(torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none"))
    wanted = {end: math.exp(sum(loss[first:last].mean().item() for loss in losses) / 2)
              for end, first, last in ((16, 0, 15), (32, 15, 31), (64, 31, 63), (128, 63, 127), (256, 127, 255))}
    assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.usefixtures("small")
def test_a_factor_of_one_changes_nothing_and_another_model_has_a_row(tmp_path: Path) -> None:
    said = list[str]()
    config = RunConfig(model="nano", threads=1, device="cpu", max_new_tokens=8)
    study = STUDIES.build("rope_extension:factor=1,length=256,texts=1")
    table = study.table(Setting(config, tmp_path, said.append))
    assert list(table.columns) == ["positions", "ppl 16", "ppl 32", "ppl 64", "ppl 128", "ppl 256", "at 64"]
    assert list(table["positions"]) == ["as trained", "ntk:1", "nano-long"]
    plain, scaled, long = (row[1:] for row in table.itertuples(index=False, name=None))
    assert plain == scaled != long
    assert "ntk:1: perplexity" in said
    axes = Figure().subplots()
    study.plot(table, axes)
    assert [line.get_label() for line in axes.lines] == ["as trained", "ntk:1", "nano-long"]
    assert [str(place) for place in axes.get_xticks()] == ["16", "32", "64", "128", "256"]


def test_a_model_that_reads_less_is_refused() -> None:
    with pytest.raises(UserError, match="nano-long can read 3200 tokens here: give a smaller length"):
        RopeExtension(length=4096, texts=1).perplexities(RunConfig(model="nano-long", device="cpu", threads=1))
