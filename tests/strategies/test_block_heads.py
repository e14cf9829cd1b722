"""Block drafters: what a block sees, and the chains and trees that are made of its rows."""

from collections.abc import Sequence

import pytest
import torch

from harness.engine.tree import ROOT
from harness.heads.block import BlockNetwork, BlockSettings, block_mask
from harness.heads.network import TargetParts
from strategies.drafters.free import LikeliestTree
from tests.decode import engine
from tests.models import tiny_model


def network(**settings: bool | int) -> BlockNetwork:
    torch.manual_seed(0)
    return BlockNetwork(TargetParts.of(engine(tiny_model("llama"))), BlockSettings(block=3, **settings))


def test_blocks_see_their_context_and_themselves() -> None:
    context = torch.tensor([[True, False], [True, True]])
    both = [[1, 0, 1, 1, 0, 0], [1, 0, 1, 1, 0, 0], [1, 1, 0, 0, 1, 1], [1, 1, 0, 0, 1, 1]]
    assert block_mask(context, 2, causal=False).int().tolist() == both
    both[0][3] = both[2][5] = 0
    assert block_mask(context, 2, causal=True).int().tolist() == both


@pytest.mark.parametrize("causal", [False, True])
def test_with_a_causal_block_masks_are_seen_by_the_rows_behind_them_only(causal: bool) -> None:
    """The first token of a block is drafted by the same numbers whatever its length is, or not."""
    head = network(causal=causal, sample_from_anchor=True)
    states, tokens = torch.randn(1, 8, 64 * len(head.reads)), torch.randint(3, 97, (1, 8))
    before = head(states, tokens)[0]
    with torch.no_grad():
        head.mask += 1
    assert torch.equal(head(states, tokens)[0], before) == causal


def test_rows_predict_the_token_at_their_own_place_or_the_one_behind_it() -> None:
    """The same block, whose rows are read one further on: without the anchor's own row there is one token less."""
    own, behind = network(), network(sample_from_anchor=True)
    behind.load_state_dict(own.state_dict())
    states, tokens = torch.randn(1, 8, 64 * len(own.reads)), torch.randint(3, 97, (1, 8))
    rows = behind(states, tokens)
    assert len(rows) == 3
    for row, other in zip(own(states, tokens), rows[1:], strict=True):
        torch.testing.assert_close(row, other)


def test_blocks_of_one_pass_equal_blocks_alone() -> None:
    """A block behind place t of a batch of blocks equals the only block of the sequence that ends there."""
    head = network()
    states, tokens = torch.randn(1, 20, 64 * len(head.reads)), torch.randint(3, 97, (1, 20))
    together = head(states, tokens, 1)
    for number, place in enumerate((1, 5, 9, 13, 17)):
        alone = head(states[:, :place + 2], tokens[:, :place + 2], place)
        for rows, row in zip(together, alone, strict=True):
            torch.testing.assert_close(rows[:, number], row[:, 0])


class Rows:
    """An expander with the same distributions below every sequence."""

    chances = torch.tensor([[0.6, 0.3, 0.1], [0.4, 0.5, 0.1]])

    def start(self, sequence: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.chances[:1].log(), torch.zeros(1, 1)

    def grow(self, states: torch.Tensor, tokens: Sequence[int], depth: int, ancestors: torch.Tensor
             ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.chances[depth:depth + 1].log(), states


@pytest.mark.parametrize(("nodes", "limit", "tokens", "parents"), [
    (5, 9, (0, 1, 1, 0, 1), (ROOT, ROOT, 0, 0, 1)),  # of .6, .3, .3 = .6 · .5, .24 = .6 · .4 and .15 = .3 · .5
    (3, 9, (0, 1, 1), (ROOT, ROOT, 0)),
    (9, 1, (0, 1, 2), (ROOT, ROOT, ROOT)),
    (99, 9, (0, 1, 2, 1, 0, 2, 1, 0, 2, 1, 0, 2), (ROOT, ROOT, ROOT, 0, 0, 0, 1, 1, 1, 2, 2, 2))])
def test_the_tree_holds_the_likeliest_paths(nodes: int, limit: int, tokens: Sequence[int],
                                            parents: Sequence[int]) -> None:
    tree = LikeliestTree(Rows(), 2, nodes).draft([1, 2], None, limit)
    assert (tree.tokens, tree.parents) == (tuple(tokens), tuple(parents))
    assert not tree.probs
