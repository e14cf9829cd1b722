from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from harness.decoding.loop import Step
from harness.engine.session import Session
from harness.engine.tree import ROOT
from harness.heads.layer import Cache, Context
from strategies.clover import BudgetTree
from strategies.clover2 import Gate
from tests.decode import engine
from tests.heads import variant
from tests.models import prompts, tiny_model


class Fixed:
    """An expander with the probabilities .5, .3, .12, .08 below the sequence, and .6, .2, .1, .1 below any node."""

    def start(self, sequence: Sequence[int]) -> tuple[Tensor, Tensor]:
        return torch.tensor([[0.5, 0.3, 0.12, 0.08]]).log(), torch.zeros(1, 1)

    def grow(self, states: Tensor, tokens: Sequence[int], depth: int, ancestors: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tensor([[0.6, 0.2, 0.11, 0.09]]).log().expand(len(tokens), 4), states


@pytest.mark.parametrize(("mass", "ratio", "nodes", "tokens", "parents"), [
    (1.0, 0.25, 3, (0, 1, 0), (ROOT, ROOT, 0)),                        # .12 is less than a quarter of .5
    (0.4, 0.25, 3, (0, 0, 0), (ROOT, 0, 1)),                           # one token is enough: a chain, three deep
    (1.0, 0.25, 8, (0, 1, 0, 1, 0, 1, 0, 0), (ROOT, ROOT, 0, 0, 1, 1, 2, 4)),
    (1.0, 0.2, 2, (0, 1), (ROOT, ROOT)),                               # the budget is spent at the first level
    (0.79, 0.0, 8, (0, 1, 0, 1, 0, 1, 0, 0), (ROOT, ROOT, 0, 0, 1, 1, 2, 4)),
])
def test_a_budget_is_spent_level_by_level(mass: float, ratio: float, nodes: int, tokens: tuple[int, ...],
                                          parents: tuple[int, ...]) -> None:
    """The last two of eight are below the paths 0-0 (.3) and 1-0 (.18), not 0-1 (.1) or 1-1 (.06)."""
    tree = BudgetTree(Fixed(), 3, nodes, mass, ratio).draft([1], Step.__new__(Step), 9)
    assert tree.tokens == tokens
    assert tree.parents == parents


def test_a_gate_is_the_cosine_of_the_state_and_the_token_in_each_head() -> None:
    network = variant("clover2", engine(tiny_model("llama"))).network
    gate = network.gates[0]
    assert isinstance(gate, Gate)
    for part in (gate.q, gate.k, gate.v):
        part.weight.copy_(torch.eye(64))
    x = torch.ones(64)
    y = torch.cat([torch.ones(16), -2 * torch.ones(16), torch.tensor([1.0, 0.0]).repeat(8), torch.zeros(16)])
    expected = torch.cat([2 * torch.ones(16), 3 * torch.ones(16), 1 + 0.5 ** 0.5 * y[32:48], torch.ones(16)])
    torch.testing.assert_close(gate(x, y), expected)


@torch.inference_mode()
def test_the_layers_start_as_the_targets_last_one() -> None:
    """A layer of the head, on what the target's last layer reads, gives what that gives; so does the norm after it."""
    owner, tokens = engine(tiny_model("llama", layers=2)), prompts(1)[0]
    network = variant("clover2:layers=1", owner).network
    session = Session(owner, remember=("hidden", "hidden:1", "hidden:2"))
    session.follow(tokens)
    session.read()
    last, states, before = (session.states([name])[None] for name in ("hidden", "hidden:2", "hidden:1"))
    count = states.shape[1]
    context = Context(torch.arange(count), torch.ones(count, count, dtype=torch.bool).tril(), [Cache()])
    found = network.layers[0](before, context, context.caches[0])
    torch.testing.assert_close(found, states, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(network.norm(found), last, atol=1e-4, rtol=1e-4)
    session.close()
