"""Layers of a block drafter with windows see no more than these, also while training."""

import pytest
import torch

from harness.errors import UserError
from tests.decode import engine
from tests.heads import untrained
from tests.models import tiny_model


@pytest.mark.parametrize(("windows", "seen"), [("3-3", True), ("9-9", False), ("3-0", False), ("", False)])
def test_states_before_the_windows_change_nothing(windows: str, seen: bool) -> None:
    """Blocks behind place 8 begin at 9: with 3 positions, they see the states of places 7 and 8 only."""
    torch.manual_seed(0)
    network = untrained("dflash", engine(tiny_model("llama", layers=2)), windows=windows, block=2).network
    states, tokens = torch.randn(1, 12, 64 * len(network.reads)), torch.randint(3, 97, (1, 12))
    other = states.clone()
    other[:, :7] = 0
    found, changed = (network(given, tokens, 8)[0] for given in (states, other))
    assert torch.allclose(found, changed, atol=1e-6) == seen


@pytest.mark.parametrize(("windows", "words"), [("3", "'windows' of the head is '3', but it has 2 layers"),
                                                ("3,3", "setting 'windows'")])
def test_there_is_a_window_for_each_layer(windows: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        untrained("dflash", engine(tiny_model("llama")), windows=windows)
