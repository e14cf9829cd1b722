"""Hidden transfer: a pseudo state that is the true one makes the target draft its own logits, and leaves no trace."""

import pytest
import torch

from harness.engine.session import Session
from harness.errors import UserError
from harness.heads.network import TargetParts
from strategies.hidden_transfer import TransferExpander, TransferMaps, TransferSettings
from tests.decode import engine
from tests.models import prompts, tiny_model


def session(arch: str) -> tuple[Session, TransferMaps, list[int]]:
    """A sequence of ten tokens on a model of two layers, and maps that enter at the second one."""
    owner, text = engine(tiny_model(arch, layers=2)), [*prompts(1)[0][:6], 7, 11, 13, 17]
    network = TransferMaps(TargetParts.of(owner), TransferSettings(maps=3)).requires_grad_(False)
    found = Session(owner, remember=("hidden", *network.reads))
    found.follow(text)
    return found, network, text


@pytest.mark.parametrize("arch", ["llama", "qwen3", "gpt2", "opt"])
@torch.inference_mode()
def test_true_states_make_the_target_draft_its_own_logits(arch: str) -> None:
    """Map k turns the state after the sixth token into the one k tokens later."""
    found, network, text = session(arch)
    found.read()
    states = found.states(network.reads).clone()
    for ahead, one in enumerate(network.maps, start=1):
        one.weight.copy_(torch.outer(states[5 + ahead], states[5]) / states[5].square().sum())
    expected = found.memory[6:9] @ network.target.head.weight.T
    found.follow(text[:6])
    found.read()
    logits, rest = TransferExpander(found, network).start(text[:7])
    torch.testing.assert_close(rest[0], expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(logits, rest[0, :1])
    trained = network(states[None], torch.tensor([text]))
    for ahead, features in enumerate(trained):
        torch.testing.assert_close(network.logits(ahead, features)[0, 5], expected[ahead], atol=1e-3, rtol=1e-3)
    found.close()


@torch.inference_mode()
def test_drafting_leaves_the_sequence_as_it_was() -> None:
    found, network, text = session("llama")
    found.follow(text[:6])
    found.read()
    found.follow(text)
    expected = found.read().logits[-1]
    found.follow(text[:6])
    found.read()
    TransferExpander(found, network).start(text[:7])
    found.follow(text)
    torch.testing.assert_close(found.read().logits[-1], expected)
    found.close()


@torch.inference_mode()
def test_no_state_is_drafted_behind_the_context() -> None:
    found, network, text = session("gpt2")
    found.read()
    found.engine.max_len = len(text) + 2
    assert TransferExpander(found, network).start([*text, 5])[1].shape == (1, 2, 97)
    found.close()


def test_gradients_reach_the_maps_alone() -> None:
    found, network, text = session("llama")
    network.requires_grad_(True)
    features = network(torch.randn(1, len(text), 64), torch.tensor([text]))
    network.logits(2, features[2]).square().sum().backward()
    assert all(one.weight.grad is not None and one.weight.grad.any() for one in network.maps)
    assert all(layer.weight.grad is None for layer in found.engine.model.modules() if isinstance(layer, torch.nn.Linear)
               and layer is not found.engine.parts.head)
    found.close()


def test_a_layer_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(UserError, match="last layer of the model is 1"):
        TransferMaps(TargetParts.of(engine(tiny_model("llama", layers=2))), TransferSettings(layer=2))
