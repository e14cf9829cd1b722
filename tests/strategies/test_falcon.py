"""Falcon with blocks of one token is an LSTM before the layer of EAGLE; within a block, attention goes both ways."""

import torch
from torch import nn

from harness.heads.layer import Cache, Context, DraftLayer, Shape, unit
from harness.heads.network import TargetParts
from strategies.falcon import LAYERS, FalconNetwork, FalconSettings
from tests.decode import engine
from tests.models import tiny_model


class OneByOne(FalconNetwork):
    stride = 1


def network(kind: type[FalconNetwork]) -> FalconNetwork:
    torch.manual_seed(0)
    return kind(TargetParts.of(engine(tiny_model("llama"))), FalconSettings())


def test_with_blocks_of_one_token_it_is_an_lstm_before_the_layer_of_eagle() -> None:
    head = network(OneByOne)
    lstm, layer = nn.LSTM(128, 64, LAYERS, batch_first=True), DraftLayer(Shape.of(head.target.config), first=True)
    for number, cell in enumerate(head.cells):
        for name, weight in cell.named_parameters():
            getattr(lstm, f"{name}_l{number}").data.copy_(weight)
    layer.attention.load_state_dict(head.attention.state_dict())
    layer.mlp.load_state_dict(head.mlp.state_dict())
    states, tokens = torch.randn(2, 9, 64), torch.randint(3, 97, (2, 9))
    read, _ = lstm(torch.cat([unit(head.target.embedding(tokens.roll(-1, 1))), states], -1))
    causal = torch.ones(9, 9, dtype=torch.bool).tril()
    expected = layer(read, Context(torch.arange(9), causal), Cache())
    torch.testing.assert_close(head(states, tokens)[0], expected)


def test_the_first_token_of_a_block_sees_all_of_the_block_before() -> None:
    """Behind t, depth 0 is the output at t − 1: what was read at t reaches it through attention."""
    head = network(FalconNetwork)
    states, tokens = torch.randn(1, 8, 64), torch.randint(3, 97, (1, 8))
    other = states.clone()
    other[:, 5] = 0
    for phase, row in ((0, 2), (1, 2)):  # behind t = 4 and t = 5
        same = torch.allclose(head(states, tokens, phase)[0][:, row], head(other, tokens, phase)[0][:, row], atol=1e-4)
        assert same == (phase == 0)


def test_a_block_is_drafted_without_its_own_tokens_and_the_next_one_with_them() -> None:
    """The token after t + 1 changes nothing at depth 1, but does at depth 2, behind t = 3."""
    head = network(FalconNetwork)
    states, tokens = torch.randn(1, 8, 64), torch.randint(3, 97, (1, 8))
    other = tokens.clone()
    other[:, 5] = (tokens[:, 5] + 1) % 97
    before, after = head(states, tokens, 1), head(states, other, 1)
    torch.testing.assert_close(before[1][:, 1], after[1][:, 1])
    assert not torch.allclose(before[2][:, 1], after[2][:, 1], atol=1e-4)
