"""FSPAD with a closed gate and equal halves is EAGLE."""

import torch

from harness.heads.network import TargetParts
from strategies.eagle import EagleNetwork, EagleSettings
from strategies.fspad import FspadNetwork
from tests.decode import engine
from tests.models import tiny_model


def pair() -> tuple[EagleNetwork, FspadNetwork]:
    """EAGLE, and FSPAD with its weights and a closed gate."""
    parts = TargetParts.of(engine(tiny_model("llama")))
    torch.manual_seed(0)
    eagle, fspad = EagleNetwork(parts, EagleSettings()), FspadNetwork(parts, EagleSettings())
    fspad.fc.load_state_dict(eagle.fc.state_dict())
    fspad.attention.load_state_dict(eagle.layer.attention.state_dict())
    for name in ("gate", "up"):
        getattr(fspad.mlp, name).load_state_dict(getattr(eagle.layer.mlp, name).state_dict())
    down = eagle.layer.mlp.down.weight.data
    fspad.mlp.down.weight.data.copy_(torch.cat([down, down]))
    fspad.sampler.gate.weight.data.zero_()
    return eagle, fspad


def test_with_a_closed_gate_and_equal_halves_it_is_eagle() -> None:
    eagle, fspad = pair()
    states, tokens = torch.randn(2, 9, 64), torch.randint(3, 97, (2, 9))
    for known, both in zip(eagle(states, tokens), fspad(states, tokens), strict=True):
        torch.testing.assert_close(fspad.aligned(both), known)
        torch.testing.assert_close(fspad.logits(0, both), eagle.logits(0, known))


def test_steps_go_on_from_the_half_for_states() -> None:
    """Another half for tokens changes the logits and no state."""
    eagle, fspad = pair()
    fspad.mlp.down.weight.data[:64].mul_(3)
    states, tokens = torch.randn(2, 9, 64), torch.randint(3, 97, (2, 9))
    for known, both in zip(eagle(states, tokens), fspad(states, tokens), strict=True):
        torch.testing.assert_close(fspad.aligned(both), known)
        assert not torch.allclose(fspad.logits(0, both), eagle.logits(0, known), atol=1e-2)
