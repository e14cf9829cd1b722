import pytest
import torch
from torch.nn import functional

from tests.decode import engine
from tests.heads import variant
from tests.models import tiny_model

STATES, TOKENS = torch.randn(1, 9, 64), torch.randint(3, 97, (1, 9))


@pytest.mark.parametrize("rnn", [True, False])
def test_each_depth_sees_the_target_and_all_tokens_before_it(rnn: bool) -> None:
    """Written out for three depths; the target's state is the same at each."""
    owner = engine(tiny_model("llama"))
    network = variant(f"redrafter:unit=false,rnn={rnn},unroll=3,layers=1", owner).network
    first, second, third = (owner.parts.embedding(TOKENS.roll(-1 - depth, 1)) for depth in range(3))
    if rnn:
        u, bias, w = network.rnn_u.weight.T, network.rnn_u.bias, network.rnn_w.weight.T
        one = functional.silu(bias + first @ w)
        two = functional.silu(one @ u + bias + second @ w)
        states = [one, two, functional.silu(two @ u + bias + third @ w)]
    else:
        states = [first, first + second, first + second + third]
    for features, state in zip(network(STATES, TOKENS), states, strict=True):
        both = torch.cat([STATES, state], -1)
        expected = both + functional.silu(both @ network.blocks[0].linear.weight.T + network.blocks[0].linear.bias)
        torch.testing.assert_close(features, expected)


def test_residual_blocks_do_not_start_at_zero() -> None:
    network = variant("redrafter", engine(tiny_model("llama"))).network
    assert all(block.linear.weight.std() > 0.01 for block in network.blocks)
