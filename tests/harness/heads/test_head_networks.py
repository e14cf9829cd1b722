"""Networks of heads: what they draft is what they were trained to predict, and they cannot see ahead."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from harness.engine.session import Session
from strategies.eagle import EagleExpander, EagleNetwork
from tests.decode import engine
from tests.heads import kinds, untrained
from tests.models import prompts, tiny_model

KINDS = sorted(kinds())


def states(tokens: Sequence[int]) -> tuple[Session, Tensor]:
    """A session that has read `tokens` but the last one, and its hidden states (1, T - 1, D)."""
    session = Session(engine(tiny_model("llama")), remember=True)
    session.follow(tokens[:-1])
    session.read()
    return session, session.memory[None]


@pytest.mark.parametrize("kind", KINDS)
def test_no_depth_sees_the_tokens_that_it_predicts(kind: str) -> None:
    """At depth i and place t, tokens after t + 1 + i and hidden states after t change nothing."""
    network = untrained(kind, engine(tiny_model("llama"))).network
    hidden, tokens = torch.randn(1, 12, 64), torch.randint(3, 97, (1, 12))
    before = network(hidden, tokens)
    for depth, features in enumerate(before):
        for place in (0, 4, 12 - 3 - depth):
            other, states = tokens.clone(), hidden.clone()
            other[:, place + 2 + depth:] = 5
            states[:, place + 1:] = 0
            torch.testing.assert_close(network(states, other)[depth][:, place], features[:, place])
    assert network.depth == len(before)


@torch.inference_mode()
def test_eagle_drafts_what_it_was_trained_to_predict() -> None:
    """Siblings, chains, and a second start after three tokens were committed and others had been drafted."""
    text = [*prompts(1)[0][:6], 7, 11, 13, 17, 19, 23]
    session, hidden = states(text)
    network = untrained("eagle", session.engine).network
    assert isinstance(network, EagleNetwork)
    expander, known = EagleExpander(session, network), len(text) - 4
    short = Session(session.engine, remember=True)
    expander.session = short
    for first in (known - 3, known):
        short.follow(text[:first])
        short.read()
        wanted = network(hidden, torch.tensor([text[:-1]]))
        logits, root = expander.start(text[:first + 1])
        torch.testing.assert_close(logits[0], network.logits(0, wanted[0][0, first - 1]))
        truth = text[first + 1]
        both, state = expander.grow(root[[0, 0]], [truth, 5], 1, torch.eye(2, dtype=torch.bool))
        torch.testing.assert_close(both[0], network.logits(1, wanted[1][0, first - 1]))
        other = torch.tensor([[*text[:first + 1], 5]])
        torch.testing.assert_close(both[1], network.logits(1, network(hidden[:, :first + 2], other)[1][0, first - 1]))
        ancestors = torch.tensor([[True, False, True]])
        deeper, _ = expander.grow(state[[0]], [text[first + 2]], 2, ancestors)
        torch.testing.assert_close(deeper[0], network.logits(2, wanted[2][0, first - 1]))
    short.close()
    session.close()
