"""Neurons that an answer uses: which are chosen, that the others do nothing, and what is counted."""

from copy import deepcopy

import pytest
import torch

from harness.engine.engine import Engine
from harness.engine.hooks import Watch, decoder_layers
from harness.engine.kept_prefix import pin
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.engine.tree import EMPTY
from harness.plugins.strategy import Request
from strategies.core_neurons import Census, CoreNeurons, OnlyCore, core, size_of, token_cores
from tests import models
from tests.self_drafting import PROMPTS, deep, greedy, nano, steps

ACTIVATIONS = torch.tensor([[3, 1, 0, 2, -1, 0], [2, 0, 4, 1, -3, 0], [0, 5, 1, 2, 0, -1]], dtype=torch.float32)
LAST = {"llama": "down_proj", "gpt2": "c_proj", "opt": "fc2"}


@pytest.mark.parametrize("arch", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("knobs", [{"beta": 1.0}, {"beta": 1.0, "alpha": 0.0, "first": 0}, {"first": 6}])
def test_tokens_are_those_of_greedy_with_all_neurons(knobs: dict[str, float], arch: str) -> None:
    session, blocks = steps(CoreNeurons(**knobs), PROMPTS[0], 20, deep(arch))  # type: ignore[arg-type]
    assert [token for block in blocks for token in block] == greedy(PROMPTS[0], 20, deep(arch))
    assert session.work.compute.numbers()["mlp"] == 6 * session.work.positions


def test_the_core_of_a_token_are_its_largest_positive_activations() -> None:
    assert [row.nonzero().view(-1).tolist() for row in token_cores(ACTIVATIONS, 0.5)] == [[0], [2], [1]]
    assert [row.nonzero().view(-1).tolist() for row in token_cores(ACTIVATIONS, 0.7)] == [[0, 3], [0, 2], [1, 3]]
    assert not token_cores(-ACTIVATIONS.abs(), 0.5).any()
    assert token_cores(torch.ones(4), 0.5).tolist() == [True, True, False, False]


def test_the_core_of_a_prompt_are_the_neurons_in_most_cores() -> None:
    counts = torch.tensor([2, 5, 2, 0, 5, 1])
    assert core(counts, 0.5).nonzero().view(-1).tolist() == [0, 1, 4], "of equal counts the first"
    assert core(counts, 0.0).nonzero().view(-1).tolist() == [1]
    assert core(counts, 1.0).all()
    assert [size_of(512, beta) for beta in (0.0, 0.1, 0.25, 1.0)] == [1, 51, 128, 512]


def census(arch: str, text: list[int], alpha: float = 0.4) -> Census:
    found, session = Census(alpha, 1), Session(deep(arch))
    session.follow(text)
    session.read(EMPTY, found)
    session.close()
    return found


def test_counts_are_those_of_the_activations_of_the_prompt() -> None:
    """Computed from the inputs of the MLPs with the model's own matrices."""
    text, names = list(PROMPTS[0]), [f"mlp:{layer}" for layer in range(6)]
    session = Session(deep())
    session.follow(text)
    recorded = session._extend(text, EMPTY, Watch(tuple(names)))._parts[-1]._output.captured
    session.close()
    found = census("llama", text)
    assert set(found.counts) == {1, 2, 3, 4, 5}
    for number, layer in enumerate(decoder_layers(deep().model)):
        mlp = layer.mlp[0]
        with torch.inference_mode():
            states = recorded[f"mlp:{number}"]
            inner = mlp.act_fn(mlp.gate_proj(states)) * mlp.up_proj(states)  # type: ignore[operator]
        if number:
            assert torch.equal(found.counts[number], token_cores(inner[0], 0.4).sum(0))


@pytest.mark.parametrize("arch", ["llama", "gpt2", "opt"])
def test_other_neurons_do_nothing(arch: str) -> None:
    """As in a model whose last matrices lack them."""
    text = list(PROMPTS[0])
    masks = {number: core(counts, 0.25) for number, counts in census(arch, text).counts.items()}
    model = deepcopy(deep(arch).model)
    model.get_decoder()._forward_hooks.clear()
    for number, mask in masks.items():
        for module in decoder_layers(model)[number].mlp:
            for name, part in module.named_modules():
                if name == LAST[arch] or (arch == "opt" and module is decoder_layers(model)[number].mlp[-1]):
                    weight = part.weight
                    with torch.no_grad():
                        weight.mul_(mask[:, None] if arch == "gpt2" else mask)  # type: ignore[operator]
    one, other = Session(deep(arch)), Session(Engine(model, models.MAX_POSITIONS))
    for session in (one, other):
        session.follow(text)
    less = one.read(EMPTY, OnlyCore(masks, 3.75)).logits
    torch.testing.assert_close(less, other.read().logits)
    one.follow(())
    one.follow(text)
    assert not torch.allclose(less, one.read().logits, atol=1e-3)
    one.close()
    other.close()


def test_counts_are_shares_of_mlps() -> None:
    engine, prompt = nano()
    session, _ = steps(CoreNeurons(beta=0.25, first=2), prompt, 9, engine)
    found = session.work.compute.numbers()
    assert found["mlp"] == 10 * len(prompt) + 8 * (2 + 8 * 0.25)
    assert found["attention"] == 10 * (len(prompt) + 8)


def test_the_whole_prompt_is_read_even_where_a_prefix_is_shared() -> None:
    """In a session that has it in its cache, the core is that of all tokens too."""
    strategy, engine = CoreNeurons(beta=0.1), deep()
    alone = steps(strategy, PROMPTS[0], 12, engine)[1]
    pin(engine, PROMPTS[0][:-1])
    session = Session(engine)
    session.follow(PROMPTS[0])
    session.read()
    found = strategy.generate(session, Request(tuple(PROMPTS[0]), 12, PhiloxStream(0)))
    assert [next(iter(found)) for _ in range(12)] == alone
    session.close()
    engine.unpin()


def test_the_core_of_nano_is_stable() -> None:
    """A few more tokens change little of it: most of the core of 96 tokens is in that of 64."""
    engine, prompt = nano()
    text = [*prompt, *greedy(prompt, 96 - len(prompt), engine)]
    cores = []
    for size in (64, 96):
        found, session = Census(0.4, 1), Session(engine)
        session.follow(text[:size])
        session.read(EMPTY, found)
        session.close()
        cores.append(torch.stack([core(counts, 0.25) for counts in found.counts.values()]))
    both, either = (cores[0] & cores[1]).sum(), (cores[0] | cores[1]).sum()
    assert float(both / either) > 0.6
    assert int(cores[0].sum()) == 9 * 128
