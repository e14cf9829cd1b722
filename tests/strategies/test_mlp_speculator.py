import pytest
import torch
from torch.nn import functional

from tests.decode import engine
from tests.heads import variant
from tests.models import tiny_model

STATES, TOKENS = torch.randn(1, 9, 64), torch.randint(3, 97, (1, 9))


@pytest.mark.parametrize("spec", ["mlp_speculator:heads=4,inner=48", "mlp_speculator:heads=4,inner=48,tied=true"])
def test_both_published_forms_of_a_stage_agree(spec: str) -> None:
    """The norm takes away the size of a sum: state · w + embedding · v = (state + embedding · v / w), w⁸ = ½."""
    network, tied = variant(spec, engine(tiny_model("llama"))).network, "tied" in spec
    weight = 0.5 ** (1 / 8)
    other, state = (1 - weight ** 2) ** 0.5 * 24 ** 0.5, STATES
    for depth, features in enumerate(network(STATES, TOKENS)):
        words = network.emb[0 if tied else depth](TOKENS.roll(-1 - depth, 1))
        mixed = weight * network.proj[min(depth, 1) if tied else depth](state) + other * words
        state = functional.gelu(mixed / mixed.square().mean(-1, keepdim=True).sqrt())
        torch.testing.assert_close(features, state, atol=1e-4, rtol=1e-4)


def test_tied_stages_share_their_weights_and_the_first_state_can_be_normed() -> None:
    owner = engine(tiny_model("llama"))
    tied = variant("mlp_speculator:heads=4,inner=48,tied=true,scaled=true", owner).network
    shapes = {name: tuple(weight.shape) for name, weight in tied.named_parameters()}
    assert shapes == {"emb.0.weight": (97, 48), "proj.0.weight": (48, 64), "proj.1.weight": (48, 48),
                      "ln.0.weight": (48,), "ln.0.bias": (48,), "head.0.weight": (97, 48)}
    for one, same in zip(tied(STATES, TOKENS), tied(7 * STATES, TOKENS), strict=True):
        torch.testing.assert_close(one, same)
