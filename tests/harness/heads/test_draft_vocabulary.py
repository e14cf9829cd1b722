"""Heads with an output layer for some tokens draft and learn these only."""

import pytest
import torch

from harness.errors import UserError
from harness.laboratory.corpus import Batch
from harness.laboratory.training import loss
from tests.decode import engine
from tests.heads import kinds, untrained
from tests.models import tiny_model

LISTED = [3, 4, 12, 13]
KINDS = [kind for kind, network in kinds().items() if "draft_vocab" in network.Settings.__dataclass_fields__
         and kind != "dflash2"]


def test_several_kinds_have_them() -> None:
    assert KINDS == ["dflash", "domino", "dspark", "eagle3", "jetspec", "p_eagle"]


def test_a_selector_of_likely_tokens_has_all() -> None:
    with pytest.raises(UserError, match="'draft_vocab' of the head must be 0"):
        untrained("dflash2", engine(tiny_model("llama")), draft_vocab=4)


@pytest.mark.parametrize("kind", KINDS)
def test_more_tokens_than_the_model_has_are_refused(kind: str) -> None:
    with pytest.raises(UserError, match="'draft_vocab' of the head is above the model's 97 tokens"):
        untrained(kind, engine(tiny_model("llama", layers=2)), draft_vocab=98)


@pytest.mark.parametrize("kind", KINDS)
def test_only_listed_tokens_are_drafted_and_learnt(kind: str) -> None:
    torch.manual_seed(0)
    network = untrained(kind, engine(tiny_model("llama", layers=2)), draft_vocab=4).network.requires_grad_()
    network.get_buffer("d2t").copy_(torch.tensor(LISTED) - torch.arange(4))
    states, tokens = torch.randn(1, 12, 64 * len(network.reads)), torch.randint(3, 97, (1, 12))
    for depth, features in enumerate(network(states, tokens)):
        chances = network.logits(depth, features).softmax(-1)
        assert (chances[0, 0] > 0).nonzero()[:, 0].tolist() == LISTED
    last = 0.1 * torch.randn(1, 12, 64)  # of which no token is out of reach
    law = network.law(last)
    torch.testing.assert_close(law.sum(-1), torch.ones(1, 12))
    assert law.count_nonzero() == 12 * 4
    value = loss(network, Batch(tokens, last, states, torch.ones(1, 12, dtype=torch.bool)))
    assert 0 < value.item() < 100
