"""Heads that draft from mask rows behind the sequence: what these see, and what the rows read."""

import pytest
import torch

from harness.heads.network import Network
from tests.decode import engine
from tests.heads import untrained
from tests.models import tiny_model


def network(kind: str, **settings: bool | int) -> Network:
    return untrained(kind, engine(tiny_model("llama")), **settings).network


def inputs(head: Network) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return torch.randn(1, 12, 64 * len(head.reads)), torch.randint(3, 97, (1, 12))


@pytest.mark.parametrize("kind", ["p_eagle", "pard"])
def test_a_mask_is_seen_by_itself_and_the_masks_behind_it(kind: str) -> None:
    """The row of the last token does not see the mask, and a longer block begins with a shorter one."""
    long, short = network(kind, block=6), network(kind, block=3)
    short.load_state_dict(long.state_dict())
    before, fewer = long(*inputs(long)), short(*inputs(short))
    assert (len(before), len(fewer)) == (6, 3)
    for row, same in zip(fewer, before[:3], strict=True):
        torch.testing.assert_close(row, same)
    with torch.no_grad():
        long.mask.mul_(-1)
    after = long(*inputs(long))
    assert torch.equal(after[0], before[0])
    assert all(not torch.allclose(row, other) for row, other in zip(after[1:], before[1:], strict=True))


@pytest.mark.parametrize(("kind", "settings", "reads"), [
    ("pard", {}, False), ("pard", {"states": True}, True), ("p_eagle", {}, True)])
def test_states_of_the_target_are_read_or_not(kind: str, settings: dict[str, bool], reads: bool) -> None:
    head = network(kind, **settings)
    states, tokens = inputs(head)
    for row, other in zip(head(states, tokens), head(-states, tokens), strict=True):
        assert torch.equal(row, other) != reads


def test_a_head_without_an_output_layer_of_its_own_uses_that_of_the_target() -> None:
    """Its own starts as the target's."""
    own, shared = network("p_eagle"), network("p_eagle", own=False)
    features = torch.randn(2, 64)
    torch.testing.assert_close(own.logits(0, features), shared.logits(0, features))
    assert own.state_dict().keys() - shared.state_dict().keys() == {"output.weight"}
