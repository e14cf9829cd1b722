"""Networks of heads: what they draft is what they were trained to predict, and they cannot see ahead."""

from collections.abc import Sequence

import pytest
import torch

from harness.engine.session import Session
from tests.decode import engine
from tests.heads import expander as drafting
from tests.heads import kinds, variant
from tests.models import prompts, tiny_model

KINDS = [*sorted(kinds()), "hydra:prefix=true,layers=3,unit=false", "mlp_speculator:tied=true,scaled=true,inner=48",
         "redrafter:rnn=false,size=48,unit=false"]


def session(tokens: Sequence[int], kind: str) -> Session:
    """A session in float64 that has read `tokens` but the last one and remembers what the head reads."""
    owner = engine(tiny_model("llama").double())
    owner.heads[kind] = variant(kind, owner)
    found = Session(owner, remember=owner.remembered([kind]))
    found.follow(tokens[:-1])
    found.read()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_no_depth_sees_the_tokens_that_it_predicts(kind: str) -> None:
    """At depth i and place t, tokens after t + 1 + i and hidden states after t change nothing."""
    network = variant(kind, engine(tiny_model("llama"))).network
    hidden, tokens = torch.randn(1, 12, 64 * len(network.reads)), torch.randint(3, 97, (1, 12))
    for first in range(1 + network.stride):
        before = network(hidden, tokens, first)
        assert network.depth == len(before)
        for depth, features in enumerate(before):
            for row, place in enumerate(range(first, 12 - 2 - depth, network.stride)):
                other, states = tokens.clone(), hidden.clone()
                other[:, place + 2 + depth:] = 5
                states[:, place + 1:] = 0
                torch.testing.assert_close(network(states, other, first)[depth][:, row], features[:, row])


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_a_head_drafts_what_it_was_trained_to_predict(kind: str) -> None:
    """Siblings, chains, and a second start after three tokens were committed and others had been drafted."""
    text = [*prompts(1)[0][:6], 7, 11, 13, 17, 19, 23]
    whole = session(text, kind)
    network, known = whole.engine.heads[kind].network, len(text) - 4
    states, words = whole.states(network.reads)[None], torch.tensor([text[:-1]])

    def trained(depth: int, place: int, other: Sequence[int] = ()) -> torch.Tensor:
        """The logits of a depth behind place t, in the text or in another that begins as it does."""
        tokens = torch.tensor([[*other, *text[len(other):-1]]]) if other else words
        found = network(states, tokens, place % network.stride)[depth]
        return network.logits(depth, found[0, place // network.stride]).float()

    short = Session(whole.engine, remember=whole.engine.remembered([kind]))
    expander = drafting(kind, short, network)
    for first in (known - 3, known):
        short.follow(text[:first])
        short.read()
        logits, root = expander.start(text[:first + 1])
        torch.testing.assert_close(logits[0], trained(0, first - 1))
        both, state = expander.grow(root[[0, 0]], [text[first + 1], 5], 1, torch.eye(2, dtype=torch.bool))
        torch.testing.assert_close(both[0], trained(1, first - 1))
        torch.testing.assert_close(both[1], trained(1, first - 1, [*text[:first + 1], 5]))
        ancestors = torch.tensor([[True, False, True]])
        deeper, _ = expander.grow(state[[0]], [text[first + 2]], 2, ancestors)
        torch.testing.assert_close(deeper[0], trained(2, first - 1))
    short.close()
    whole.close()
