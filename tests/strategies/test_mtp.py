"""The module for multi-token prediction: its chain, and steps that go on from outputs before their norm."""

import torch

from harness.engine.tree import ROOT
from harness.heads.network import TargetParts
from strategies.drafters.choices import chain
from strategies.mtp import MtpNetwork, MtpSettings
from tests.decode import engine
from tests.models import tiny_model


def network() -> MtpNetwork:
    torch.manual_seed(0)
    return MtpNetwork(TargetParts.of(engine(tiny_model("llama"))), MtpSettings())


def test_a_chain_has_one_candidate_a_depth() -> None:
    assert chain(3).nodes == ((0, 0), (1, 0), (2, 0))
    assert chain(3).parents == (ROOT, 0, 1)


def test_the_final_norm_is_no_part_of_the_state_that_steps_go_on_from() -> None:
    """Its weights scale the features of every step alike."""
    one, other = network(), network()
    other.norm.weight.data.mul_(3)
    states, tokens = torch.randn(2, 9, 64), torch.randint(3, 97, (2, 9))
    for features, scaled in zip(one(states, tokens), other(states, tokens), strict=True):
        torch.testing.assert_close(3 * features, scaled)


def test_it_projects_the_embedding_first_and_then_the_state() -> None:
    """Without the first half of the projection, the tokens that follow change nothing at the first step."""
    head = network()
    states, tokens, other = torch.randn(2, 9, 64), torch.randint(3, 97, (2, 9)), torch.randint(3, 97, (2, 9))
    assert not torch.allclose(head(states, tokens)[0], head(states, other)[0], atol=1e-3)
    head.fc.weight.data[:, :64].zero_()
    torch.testing.assert_close(head(states, tokens)[0], head(states, other)[0])
