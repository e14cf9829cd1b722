"""Drafts with rounded weights: the rounding, the models that get it, and the distribution."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.hooks import Skip, decoder_layers
from harness.engine.rounded_weights import RoundedWeights, rounded
from harness.engine.session import Session, Work
from harness.models.products import ROWS, Choice, FastLinear
from strategies.quantised_self import QuantisedSelf
from tests import models
from tests.chances import MASS, TEMPERATURE, VOCAB, PValue
from tests.models import MAX_POSITIONS, prompts, tiny_model
from tests.scale import scaled
from tests.self_drafting import PROMPTS, as_greedy, deep, steps


def test_a_group_is_rounded_between_its_ends() -> None:
    """By hand: steps of 1 from 0, of 0.5 from −1, and a group of equal weights, which stay as they are."""
    weight = torch.tensor([[0.0, 0.4, 1.6, 3.0, -1.0, 0.5, 0.2, -0.7, 7.0, 7.0]])
    found = rounded(weight, 2, 4)
    assert found.integers.tolist() == [[0, 0, 2, 3, 0, 3, 2, 1, 0, 0]]
    assert found.values.tolist() == [[0.0, 0.0, 2.0, 3.0, -1.0, 0.5, 0.0, -0.5, 7.0, 7.0]]
    assert rounded(weight, 2, 0).values.unique().numel() == 4
    assert torch.equal(rounded(weight, 2, 10 ** 6).values, rounded(weight, 2, 0).values)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_error_is_at_most_half_a_step(bits: int) -> None:
    weight = torch.randn(7, 50, generator=torch.Generator().manual_seed(bits))
    found = rounded(weight, bits, 16)
    step = found.step.repeat_interleave(16, 1)[:, :50]
    assert found.step.shape == (7, 4)
    assert ((found.values - weight).abs() <= step / 2 * 1.001).all()
    assert (found.integers.min(), found.integers.max()) == (0, 2 ** bits - 1)


def with_weights(arch: str, bits: int, group: int) -> Engine:
    """The same model with rounded weights from the start."""
    model = deepcopy(deep(arch).model)
    model.get_decoder()._forward_hooks.clear()
    for layer in decoder_layers(model):
        for module in layer.whole.modules():
            if isinstance(module, nn.Linear):
                module.weight.data = rounded(module.weight.data, bits, group).values
            if isinstance(module, Conv1D):
                module.weight.data = rounded(module.weight.data.t(), bits, group).values.t()
    return Engine(model, MAX_POSITIONS)


@pytest.mark.parametrize("arch", ["llama", "gpt2", "opt", "qwen2"])
@pytest.mark.parametrize(("bits", "group"), [(2, 24), (4, 0)])
def test_a_draft_is_that_of_the_model_with_rounded_weights(arch: str, bits: int, group: int) -> None:
    """From the first token on, so that no keys and values of the unrounded model are read."""
    session, other, text = Session(deep(arch)), Session(with_weights(arch, bits, group)), PROMPTS[0]
    session.follow([])
    other.follow(text)
    found, expected = session.draft_read(text, RoundedWeights(bits, group)).logits[-1:], other.read().logits
    session.follow(text)
    whole = session.read().logits
    session.close()
    other.close()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(whole, expected, atol=1e-2)


def test_rounding_leaves_the_model_as_it_was() -> None:
    session, found = Session(deep()), list[torch.Tensor]()
    for hook in (Skip(), RoundedWeights(16, 128), RoundedWeights(2, 8), Skip()):
        session.follow([])
        found.append(session.draft_read(PROMPTS[0], hook).logits)
    session.close()
    assert [torch.equal(found[0], other) for other in found[1:]] == [True, False, True]
    assert all("forward" not in module.__dict__ for module in deep().model.modules())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_draft_of_unrounded_weights_is_right(temperature: float) -> None:
    strategy = QuantisedSelf(bits=16, gamma=4, temperature=temperature)
    session, blocks = steps(strategy, PROMPTS[0], 31, deep())
    assert [len(block) for block in blocks] == [1, 5, 5, 5, 5, 5, 5]
    assert (session.work.drafted, session.work.accepted, session.work.forwards) == (24, 24, 7)
    assert (session.draft_work.forwards, session.draft_work.positions) == (24, 24)


def test_more_bits_are_accepted_more_often() -> None:
    def share(bits: int) -> float:
        done = [steps(QuantisedSelf(bits=bits, group=32), prompt, 40, deep())[0].work for prompt in PROMPTS]
        return sum(work.accepted for work in done) / sum(work.drafted for work in done)
    assert share(2) < share(4) < share(8)


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_tokens_are_those_of_greedy(arch: str) -> None:
    done = as_greedy(QuantisedSelf(bits=3, group=16, gamma=3), deep(arch))
    assert any(session.work.accepted < session.work.drafted for session, _ in done)
    assert any(session.work.accepted for session, _ in done)


@torch.inference_mode()
def test_drafts_in_a_batch_are_those_of_each_alone() -> None:
    """Two roundings in one batch, which never share a forward."""
    on, new = deep(), scaled(12, 20)

    def job(text: list[int], bits: int) -> tuple[list[list[int]], Work, Work]:
        session, blocks = steps(QuantisedSelf(bits=bits, gamma=3), text, new, on)
        return blocks, session.work, session.draft_work
    jobs = [partial(job, text, bits) for text in prompts(scaled(3, 6), 97, 5) for bits in (2, 4)]
    alone = [go() for go in jobs]
    assert run_batched([on], jobs) == alone


def test_the_distribution_is_preserved_where_much_is_lost(p_value: PValue) -> None:
    strategy = QuantisedSelf(bits=2, group=0, gamma=2, temperature=TEMPERATURE, p=MASS)
    assert p_value(strategy, None, deep("llama", VOCAB, 0.8, 4)) > 1e-3


def test_four_bits_are_multiplied_as_four_bits_in_bfloat16() -> None:
    """The same numbers as with rounded weights of the precision of the model, up to the rounding of bfloat16."""
    on, hook = Engine(tiny_model("llama", layers=2).to(torch.bfloat16), MAX_POSITIONS), RoundedWeights(4, 32)
    session = Session(on)
    found = session.draft_read(PROMPTS[0], hook).logits
    used = {forward.func.__name__ for forward in on.parts.prepared[hook].values()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.engine.rounded_weights.PACKED_GROUPS", ())
        on.parts.prepared.clear()
        session.follow([])
        plain = session.draft_read(PROMPTS[0], hook).logits
        assert {forward.func.__name__ for forward in on.parts.prepared[hook].values()} == {"_plain"}
    session.close()
    assert used == ({"_packed"} if torch.backends.cpu.get_cpu_capability().startswith("AVX") else {"_plain"})
    assert (found - plain).abs().max() < 0.05 * plain.abs().max()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="oneDNN is not available")
def test_weights_that_are_packed_for_the_processor_are_unpacked() -> None:
    model = tiny_model("llama", layers=2)
    plain = Engine(deepcopy(model), models.MAX_POSITIONS)
    for layer in decoder_layers(model):
        for name, module in list(layer.whole.named_modules()):
            if isinstance(module, nn.Linear):
                layer.whole.set_submodule(name, FastLinear(module, Choice(ROWS, 1), single=True))
    found = []
    for on in (plain, Engine(model, models.MAX_POSITIONS)):
        session = Session(on)
        found.append(session.draft_read(PROMPTS[0], RoundedWeights(3, 16)).logits)
        session.close()
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
