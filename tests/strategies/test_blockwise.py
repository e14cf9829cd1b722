import torch

from harness.engine.tree import ROOT
from strategies.blockwise import Blockwise
from tests.decode import engine
from tests.heads import variant
from tests.models import tiny_model

STATES, TOKENS = torch.randn(1, 9, 64), torch.randint(3, 97, (1, 9))


def test_each_head_adds_its_part_of_the_layer_to_the_state() -> None:
    owner = engine(tiny_model("llama"))
    network = variant("blockwise:heads=3,width=16", owner).network
    first, _, second = network.blocks
    inside = (STATES @ first.weight.T + first.bias).clamp_min(0)
    assert inside.shape[-1] == 3 * 16
    for head, features in enumerate(network(STATES, TOKENS)):
        part = slice(64 * head, 64 * (head + 1))
        torch.testing.assert_close(features, STATES + inside @ second.weight[part].T + second.bias[part])
    second.weight.zero_()
    second.bias.zero_()
    for head, features in enumerate(network(STATES, TOKENS)):
        torch.testing.assert_close(network.logits(head, features), owner.parts.head(STATES))


def test_the_paper_drafts_one_path() -> None:
    ranks = [[0.4, 0.3, 0.2], [0.3, 0.3, 0.2], [0.2, 0.2, 0.2]]
    chain = Blockwise().choices(ranks)
    assert chain.nodes == ((0, 0), (1, 0), (2, 0))
    assert chain.parents == (ROOT, 0, 1)
    assert {rank for _, rank in Blockwise(top=2).choices(ranks).nodes} == {0, 1}
