import torch
from torch.nn import functional

from strategies.chimera import last_seen
from tests.decode import engine
from tests.heads import variant
from tests.models import tiny_model


def test_the_last_seen_tokens_of_a_tree_are_on_the_way_to_its_nodes() -> None:
    """Two tokens of a sequence, siblings at 2 and 3, a child of the first at 4, and one of that at 5."""
    mask = torch.tensor([[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0],
                         [1, 1, 1, 0, 1, 0], [1, 1, 1, 0, 1, 1]]).bool()
    assert last_seen(mask, 3).tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [0, 1, 3], [1, 2, 4], [2, 4, 5]]
    assert last_seen(mask[:2, :2], 3).tolist() == [[0, 0, 0], [0, 0, 1]]


def test_a_layer_that_adds_nothing_leaves_the_codes_of_three_tokens() -> None:
    """Then an output layer, which starts as that of the target twice, reads the target's state plus the code."""
    owner = engine(tiny_model("llama"))
    network = variant("chimera:heads=3,unit=false", owner).network
    network.layer.attention.o.weight.zero_()
    network.layer.mlp.down.weight.zero_()
    states, tokens = torch.randn(1, 9, 64), torch.randint(3, 97, (1, 9))
    words = owner.parts.embedding(tokens)[0]
    block, out = network.encoder[0], network.encoder[1]
    block.linear.weight.copy_(torch.randn(192, 192) / 20)
    found = network(states, tokens)
    for depth in range(3):
        for place in range(9 - 1 - depth):
            three = [max(1, place + 1 + depth - back) for back in (2, 1, 0)]  # a sequence begins at token 1
            joined = torch.cat([words[at] for at in three])
            code = (joined + functional.silu(joined @ block.linear.weight.T)) @ out.weight.T
            features = found[depth][0, place]
            torch.testing.assert_close(features, torch.cat([states[0, place], code]), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(network.aligned(features), code, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(network.logits(depth, features), owner.parts.head(states[0, place] + code),
                                       atol=1e-4, rtol=1e-4)
