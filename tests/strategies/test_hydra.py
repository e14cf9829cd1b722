import torch

from harness.heads.network import Recipe
from tests.decode import engine
from tests.heads import variant
from tests.models import tiny_model


def test_heads_that_pass_the_state_on_repeat_the_targets_prediction() -> None:
    """With the first map a projection on the state, and nothing else, each head is the target's output layer."""
    owner = engine(tiny_model("llama"))
    network = variant("hydra:heads=3,layers=2", owner).network
    for head in network.blocks:
        first = head[0]
        first.around.weight.zero_()
        first.around.weight[:, :64] = torch.eye(64)
        first.around.bias.zero_()
    states, tokens = torch.randn(1, 9, 64), torch.randint(3, 97, (1, 9))
    for depth, features in enumerate(network(states, tokens)):
        torch.testing.assert_close(network.logits(depth, features), owner.parts.head(states))


def test_hydra_plus_plus_learns_the_distribution_of_the_target() -> None:
    owner = engine(tiny_model("llama"))
    assert variant("hydra", owner).network.recipe == Recipe(text=1, target=0)
    assert variant("hydra:prefix=true", owner).network.recipe == Recipe(text=0, target=1)
