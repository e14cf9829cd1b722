"""Scaled rotary positions: the figures of the papers, transformers' own route, and what a run remembers of them."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from harness.engine.session import Session
from harness.errors import UserError
from harness.measure.compare import refusals
from harness.models.loading import fingerprint, load
from harness.models.rope import Scaling
from harness.run.runner import run
from harness.store.config import RunConfig
from harness.store.folder import Store
from tests.models import tiny_model
from tests.pair import saved
from tests.watch import Quiet

PLAIN = 1 / 1e4 ** (torch.arange(0, 64, 2, dtype=torch.float) / 64)
TEXT = [5, 11, 3, 7, 2, 9, 4, 13, 21, 8] * 4


def config(rope: dict[str, object] | None = None, longest: int = 512) -> LlamaConfig:
    return LlamaConfig(hidden_size=64, num_attention_heads=1, head_dim=64, max_position_embeddings=longest,
                       rope_parameters={"rope_type": "default", "rope_theta": 1e4} | (rope or {}))


def frequencies(text: str, original: int) -> torch.Tensor:
    return Scaling.parse(text).frequencies(PLAIN, config(), original)[0]


def base(found: torch.Tensor) -> float:
    """The base of frequencies b^(-2i / D)."""
    return float(found[-1].double() ** (-64 / 62))


def test_the_plain_frequencies_are_those_of_the_paper() -> None:
    assert PLAIN[[0, 8, 16, 31]].tolist() == pytest.approx([1, 0.1, 0.01, 1.3335e-4], rel=1e-4)


@pytest.mark.parametrize(("factor", "wanted"), [(2, 20452.2), (4, 41829.4), (8, 85550.4)])
def test_ntk_is_a_larger_base(factor: int, wanted: float) -> None:
    found = frequencies(f"ntk:{factor}", 512)
    assert base(found) == pytest.approx(wanted, rel=1e-5)
    assert found[0] == 1
    assert found[-1] == pytest.approx(PLAIN[-1].item() / factor, rel=1e-5)


@pytest.mark.parametrize(("length", "wanted"), [(1024, 31082.2), (2048, 74534.8)])
def test_ntk_has_the_frequencies_of_dynamic_at_one_length(length: int, wanted: float) -> None:
    """Its factor is (a·n/L0) − (a − 1), for a = 2 and L0 = 512."""
    found = frequencies(f"ntk:{2 * length / 512 - 1}", 512)
    theirs, _ = ROPE_INIT_FUNCTIONS["dynamic"](config({"rope_type": "dynamic", "factor": 2.0}), "cpu", length)
    assert base(found) == pytest.approx(wanted, rel=1e-5)
    assert torch.allclose(found, theirs, rtol=1e-5)


def test_linear_divides_every_frequency() -> None:
    assert torch.equal(frequencies("linear:4", 512), PLAIN / 4)


@pytest.mark.parametrize(("original", "first", "last"), [(512, 3, 16), (2048, 8, 21), (8192, 12, 25)])
def test_yarn_keeps_fast_frequencies_and_divides_slow_ones(original: int, first: int, last: int) -> None:
    share = frequencies("yarn:4", original) / PLAIN
    assert torch.equal(share[:first + 1], torch.ones(first + 1))
    assert share[first + 1] < 1
    assert share[last - 1] > 0.2501
    assert share[last:].tolist() == pytest.approx([0.25] * (32 - last), rel=1e-6)


def test_yarn_has_the_figures_of_its_code() -> None:
    share = frequencies("yarn:4", 512) / PLAIN
    assert share[[0, 2, 4, 8, 12, 16]].tolist() == pytest.approx([1, 1, 0.9423, 0.7115, 0.4808, 0.25], abs=5e-5)
    scales = [Scaling("yarn", float(factor)).frequencies(PLAIN, config(), 512)[1] for factor in (2, 4, 8)]
    assert scales == pytest.approx([1.06931, 1.13863, 1.20794], abs=5e-6)


@pytest.mark.parametrize(("original", "counts"), [(512, [16, 7, 9]), (2048, [21, 7, 4])])
def test_truncated_replaces_slow_frequencies_and_drops_the_slowest(original: int, counts: list[int]) -> None:
    found = frequencies("truncated:4", original)
    slow = (found - 2 * math.pi / (16 * original)).abs() < 1e-8
    assert [int((found == PLAIN).sum()), int(slow.sum()), int((found == 0).sum())] == counts


def test_power_lowers_slow_frequencies_most() -> None:
    found = frequencies("power:2", 512) / PLAIN
    assert found[[0, 8, 16, 24]].tolist() == pytest.approx([1, 0.5625, 0.25, 0.0625])


@torch.inference_mode()
def logits(folder: Path | str, rope: str) -> torch.Tensor:
    session = Session(load(str(folder), rope=rope).engine)
    session.follow(TEXT)
    return session.read().logits


@pytest.mark.parametrize("rule", ["linear", "ntk", "yarn"])
def test_factor_one_changes_no_bit(rule: str) -> None:
    assert torch.equal(logits(saved("llama"), f"{rule}:1:16"), logits(saved("llama"), ""))


@pytest.mark.parametrize(("text", "rules"), [
    ("linear:4", {"rope_type": "linear", "factor": 4.0}),
    ("yarn:4:16", {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16})])
@torch.inference_mode()
def test_transformers_gives_the_same_logits_from_its_configuration(text: str, rules: dict[str, object]) -> None:
    plain = AutoModelForCausalLM.from_pretrained(saved("llama"), dtype=torch.float32)
    rules = {**plain.config.rope_parameters, **rules}
    model = AutoModelForCausalLM.from_pretrained(saved("llama"), dtype=torch.float32, rope_parameters=rules)
    found = logits(saved("llama"), text)[-1]
    assert torch.allclose(found, model(torch.tensor([TEXT])).logits[0, -1], atol=1e-5)
    assert not torch.allclose(found, plain(torch.tensor([TEXT])).logits[0, -1], atol=1e-2)


def test_the_model_reads_longer_texts_and_its_keys_can_be_turned() -> None:
    longest = load(str(saved("llama"))).engine.max_len
    for text, wanted in (("linear:4", 4 * longest), ("yarn:2:16", longest), ("power:2", longest),
                         (f"ntk:3:{longest}", 3 * longest)):
        engine = load(str(saved("llama")), rope=text).engine
        assert engine.max_len == wanted
        states = torch.ones(1, 1, 2, engine.model.config.head_dim)
        assert torch.allclose(engine.rotary.turned(0, states, torch.zeros(1, 2, dtype=torch.long)), states, atol=1e-6)


def test_models_without_plain_rotary_positions_are_refused() -> None:
    with pytest.raises(UserError, match="--rope needs a model with the same rotary positions in all layers"):
        Scaling.parse("linear:2").apply(tiny_model("gpt2"))
    model = tiny_model("llama")
    model.config.rope_parameters["rope_type"] = "llama3"
    with pytest.raises(UserError, match=r"already scaled \(llama3\): leave --rope out"):
        Scaling.parse("linear:2").apply(model)


@pytest.mark.parametrize(("text", "words"), [
    ("yarm:4", "There is no RoPE rule 'yarm'. Did you mean 'yarn'?"),
    ("yarn", "Write --rope as RULE:FACTOR"), ("yarn:x", "Write --rope as RULE:FACTOR"),
    ("yarn:4:1.5", "Write --rope as RULE:FACTOR"), ("yarn:4:512:1", "a factor of at least 1"),
    ("ntk:0.5", "a factor of at least 1"), ("ntk:nan", "a factor of at least 1"), ("ntk:inf", "a factor of at least 1"),
    ("yarn:4:0", "a length of at least 8"), ("dynamic:2", "the keys in the KV cache no longer fit")])
def test_a_wrong_rule_is_refused_in_a_sentence(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        Scaling.parse(text)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["yarn:4", "ntk:2.5:512", "power:2"])
def test_a_rule_is_written_as_it_is_read(text: str) -> None:
    assert str(Scaling.parse(text)) == text


def test_other_backends_are_refused() -> None:
    with pytest.raises(UserError, match="--rope needs --backend transformers"):
        RunConfig(rope="yarn:4", backend="openai")


def test_a_run_is_neither_resumed_nor_compared_with_another_rule(tmp_path: Path) -> None:
    file = tmp_path / "ask.jsonl"
    file.write_text('{"turns": ["Hi?"], "checker": "none"}\n')

    def done(rope: str, name: str) -> Store:
        run(RunConfig(model=str(saved("llama")), tasks=(f"task_file:file={file}",), threads=1, strategies=("greedy",),
                      max_new_tokens=4, device="cpu", rope=rope, output=tmp_path / name), Quiet(), "")
        return Store.open(tmp_path / name)

    plain = done("", "plain").manifest
    assert "rope" not in plain.config
    with pytest.raises(UserError, match="holds another run"):
        done("ntk:2", "plain")
    scaled = done("ntk:2", "scaled").manifest
    assert scaled.config["rope"] == "ntk:2"
    assert done("ntk:2", "scaled").manifest.model.fingerprint == scaled.model.fingerprint != plain.model.fingerprint
    assert [text for text in refusals(plain, scaled) if text.startswith("the model")]


def test_heads_know_their_model_under_any_rule() -> None:
    models = [load(str(saved("llama")), rope=text).engine.model for text in ("", "yarn:4:16")]
    assert len({fingerprint(model, rounded=True) for model in models}) == 1
