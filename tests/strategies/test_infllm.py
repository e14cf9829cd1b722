"""InfLLM against a plain computation, one token and head at a time, from keys without rotation."""

from collections.abc import Sequence
from functools import cache, partial

import pytest
import torch
from torch import Tensor

from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.session import Session
from harness.errors import Unsupported
from harness.plugins.registry import STRATEGIES
from strategies.parts.units import Lookup, Units
from tests.by_hand import by_hand, causal, rotated
from tests.decode import decode, engine, traced
from tests.models import prompts, tiny_model

TEXT = [token for prompt in prompts(20, 97, 1) for token in prompt]
SMALL = Lookup(sinks=2, window=6, unit=3, reps=2, top=2)
KNOBS = "sinks=2,window=6,unit=3,reps=2,top=2"


@cache
def target(arch: str = "llama") -> Engine:
    return engine(tiny_model(arch, layers=2))


class ByHand:
    """The attention of the paper for one text, whose units form after each token."""

    def __init__(self, policy: Lookup) -> None:
        self.policy, self.most = policy, 0
        self.mass = [list[Tensor](), list[Tensor]()]   # by layer and token: the attention (H,) received
        self.units = [list[Tensor](), list[Tensor]()]  # by layer: the means (H, D)

    def __call__(self, layer: int, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The output (H, 1, D) after the last of S tokens."""
        policy, size, units = self.policy, keys.shape[1], self.units[layer]
        here = range(max(0, size - policy.window), size)
        away = rotated(query, torch.tensor([policy.window]))
        order = sorted(range(len(units)), key=lambda i: -float((away[:, 0] * units[i]).sum()))
        free = policy.sinks + policy.unit * len(units)
        behind = [*range(policy.sinks), *range(free, here.start)]
        for i in order[:policy.top]:
            behind += range(policy.sinks + policy.unit * i, policy.sinks + policy.unit * (i + 1))
        behind = [slot for slot in behind if slot < here.start]
        self.most, slots = max(self.most, len(behind) + len(here)), [*behind, *here]
        near = rotated(keys[:, here.start:], torch.arange(here.start, size))
        scores = torch.cat([away @ keys[:, behind].mT, rotated(query, torch.tensor([size - 1])) @ near.mT], -1)
        weights = (scores / query.shape[-1] ** 0.5).softmax(-1)
        self._learn(layer, weights[:, 0, len(behind):], here, keys)
        return weights @ values[:, slots]

    def _learn(self, layer: int, given: Tensor, here: range, keys: Tensor) -> None:
        policy, mass, units = self.policy, self.mass[layer], self.units[layer]
        mass.append(torch.zeros(len(keys)))
        for slot, weight in zip(here, given.unbind(1), strict=True):
            mass[slot] = mass[slot] + weight
        first = policy.sinks + policy.unit * len(units)
        if first + policy.unit <= keys.shape[1] - policy.window:
            means = []
            for head in range(len(keys)):
                best = sorted(range(first, first + policy.unit), key=lambda slot: -float(mass[slot][head]))
                means.append(keys[head, best[:policy.reps]].mean(0))
            units.append(torch.stack(means))


def forced(policy: Lookup, text: Sequence[int], on: Engine, ends: Sequence[int]) -> tuple[Tensor, Units]:
    """The logits after the text up to each of `ends`, and what the policy knows then."""
    session, found = Session(on), list[Tensor]()
    with session.with_cache_policy(policy), torch.inference_mode():
        for end in ends:
            session.follow(text[:end])
            found.append(session.read().logits[0])
        session._sequence.settle(whole=True)
        known = session.row.state
    session.close()
    return torch.stack(found), known


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
@pytest.mark.parametrize("policy", [SMALL, Lookup(2, 6, 3, 1, 0), Lookup(0, 5, 4, 3, 1), Lookup(3, 8, 2, 9, 100)])
def test_a_token_sees_its_window_and_the_units_that_it_looks_up(arch: str, policy: Lookup) -> None:
    text, reference = TEXT[:50], ByHand(policy)
    wanted = by_hand(text, reference, target(arch))[0]
    found, known = forced(policy, text, target(arch), range(1, 51))
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-3)
    assert known.means.shape[2] == len(reference.units[0]) == (50 - policy.window - policy.sinks) // policy.unit
    assert reference.most <= policy.sinks + policy.unit * (min(policy.top, 30) + 1) + policy.window
    for layer in (0, 1):
        torch.testing.assert_close(known.means[layer].transpose(0, 1), torch.stack(reference.units[layer]), rtol=1e-3,
                                   atol=1e-3)
    assert (wanted - by_hand(text, causal, target(arch))[0]).abs().max() > 0.1


def test_all_units_are_not_the_whole_text() -> None:
    """What is behind the window has lost its order."""
    found = forced(Lookup(0, 6, 2, 1, 100), TEXT[:30], target(), [30])[0][0]
    assert (found - by_hand(TEXT[:30], causal, target())[0][-1]).abs().max() > 0.05


def test_a_query_looks_up_the_units_that_match_it() -> None:
    """Two heads, three units: the products of the heads add up."""
    means = torch.tensor([[[[1.0, 0.0], [0.0, 1.0], [0.6, 0.6]], [[-1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]]])
    known, policy = Units(means, torch.zeros(1, 2, 0)), Lookup(1, 4, 2, 1, 1)
    query = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]])
    seen = policy.chosen(0, query, known, 9)
    assert seen.tolist() == [[True, False, False, False, False, True, True, True, True],
                             [True, False, False, True, True, False, False, True, True]]
    assert policy.chosen(0, query, known, 4).tolist() == [[True, False, False, False], [True, False, False, True]]
    assert Lookup(1, 4, 2, 1, 3).chosen(0, query, known, 9).all()


def test_the_tokens_with_most_attention_stand_for_a_unit() -> None:
    keys = torch.arange(12.0).view(1, 2, 6, 1)
    mass = torch.tensor([[[1.0, 3.0, 2.0, 0.1, 0.2, 0.9, 5.0], [9.0, 1.0, 2.0, 4.0, 3.0, 0.0, 6.0]]])
    known = Lookup(0, 4, 3, 2, 1).formed(Units(torch.zeros(1, 2, 0, 1), mass), [keys])
    assert known.means[0, :, :, 0].tolist() == [[1.5, 4.5], [7.0, 9.5]]
    assert known.mass.tolist() == [[[5.0], [6.0]]]


def test_tokens_read_together_see_what_they_see_one_by_one_if_no_unit_forms() -> None:
    one = forced(SMALL, TEXT[:23], target(), range(1, 24))[0]
    many = forced(SMALL, TEXT[:23], target(), [*range(1, 21), 23])[0]
    torch.testing.assert_close(many[-1], one[-1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("over", ["greedy", "temperature", "beam:width=3", "prompt_lookup"])
def test_a_text_within_the_window_is_that_of_the_other_strategy(over: str) -> None:
    plain = decode(STRATEGIES.build(over), target(), TEXT[:20], new=20, eos=None)
    assert decode(STRATEGIES.build(f"{over}+infllm:window=40"), target(), TEXT[:20], new=20, eos=None) == plain
    assert decode(STRATEGIES.build(f"{over}+infllm:{KNOBS}"), target(), TEXT[:20], new=20, eos=None) != plain


def test_a_prompt_is_read_in_blocks() -> None:
    strategy = STRATEGIES.build(f"infllm:{KNOBS},block=4")
    tokens, work, _ = traced(strategy, target(), TEXT[:18], new=5, eos=None)
    assert (work.forwards, work.positions) == (5 + 4, 18 + 4)
    session = Session(target())
    with session.with_cache_policy(SMALL):
        for end in (4, 8, 12, 16, 18):
            session.follow(TEXT[:end])
            logits = session.read().logits[0]
    session.close()
    assert int(logits.argmax()) == tokens[0]


@torch.inference_mode()
def test_texts_of_all_lengths_side_by_side() -> None:
    """Some have no units yet, some fewer than are looked up, and two have another policy."""
    strategies = [STRATEGIES.build(f"greedy+infllm:{KNOBS}"), STRATEGIES.build("greedy+kv_quant:residual=2,group=2")]
    jobs = [partial(decode, strategies[i % 4 == 3], target(), TEXT[i:i + 3 + 5 * i], new=20, eos=None)
            for i in range(8)]
    assert run_batched([target()], jobs) == [job() for job in jobs]


def test_a_sequence_that_goes_back_is_read_again() -> None:
    text = [*TEXT[:15], *TEXT[40:50]]
    session = Session(target())
    with session.with_cache_policy(SMALL), torch.inference_mode():
        for tokens in (TEXT[:20], TEXT[:30], text):
            session.follow(tokens)
            found = session.read().logits[0]
    session.close()
    torch.testing.assert_close(found, forced(SMALL, text, target(), [25])[0][0], rtol=1e-3, atol=1e-3)


def test_models_without_rotary_embeddings_are_refused() -> None:
    with pytest.raises(Unsupported, match="rotary"):
        decode(STRATEGIES.build("infllm"), target("gpt2"), TEXT[:5])
