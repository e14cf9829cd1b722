"""The module for multi-token prediction: its chain, and steps that go on from outputs before their norm."""

import pytest
import torch

from harness.backends.transformers import open_session
from harness.decoding.loop import Step
from harness.engine.random_stream import PhiloxStream
from harness.engine.tree import EMPTY, ROOT
from harness.heads.network import TargetParts
from harness.plugins.strategy import Request
from strategies.mtp import Mtp, MtpNetwork, MtpSettings
from tests.decode import engine
from tests.models import prompts, tiny_model


def network() -> MtpNetwork:
    torch.manual_seed(0)
    return MtpNetwork(TargetParts.of(engine(tiny_model("llama"))), MtpSettings())


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_chain_is_as_long_as_asked_and_is_drawn_above_temperature_0(temperature: float) -> None:
    """Also deeper than the module was trained, and never longer than what is left of the answer."""
    strategy, prompt = Mtp(nodes=5, temperature=temperature), prompts(1)[0]
    session = open_session(strategy, [engine(tiny_model("llama"))])
    session.follow(prompt[:-1])
    last = Step(EMPTY, session.read(), (), 0)
    drafter = strategy.drafter(session, Request(tuple(prompt), 20, PhiloxStream(0)))
    for limit, count in ((9, 5), (2, 2)):
        tree = drafter.draft(prompt, last, limit)
        assert tree.parents == tuple(range(ROOT, count - 1))
        assert len(tree.probs) == (count if temperature else 0)
    session.close()


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
