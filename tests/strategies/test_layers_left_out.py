"""lac_skip and skip_decode: which layers are left out, and that no later token asks for keys that are missing."""

from functools import partial
from itertools import pairwise

import pytest
import torch

from harness.engine.batching import run_batched
from harness.engine.hooks import Skip, Watch
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.engine.tree import EMPTY
from harness.plugins.strategy import Request, Strategy
from strategies.lac_skip import LacSkip, LastActive, Survey, active
from strategies.skip_decode import SkipDecode
from tests.self_drafting import PROMPTS, deep, greedy, nano, steps

NORMS = torch.tensor([1, 3, 3.5, 7.5, 8, 9])
ENDS = [LacSkip(alpha=-1e9), SkipDecode(least=6), SkipDecode(least=9, warm=9), LacSkip(alpha=-1e9, mode="prompt")]


def tokens(strategy: Strategy, new: int = 20, arch: str = "llama") -> list[int]:
    return [token for block in steps(strategy, PROMPTS[0], new, deep(arch))[1] for token in block]


@pytest.mark.parametrize("arch", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("strategy", ENDS, ids=lambda strategy: strategy.spec())
def test_nothing_is_left_out_at_the_end_of_the_range(strategy: Strategy, arch: str) -> None:
    assert tokens(strategy, arch=arch) == greedy(PROMPTS[0], 20, deep(arch))


def test_a_layer_is_void_below_a_share_of_the_range_of_changes() -> None:
    assert active(NORMS, 0.8).tolist() == [True, True, True, False, False]
    assert active(NORMS, 0.0).tolist() == [True] * 5
    assert active(torch.tensor([3.0, 2, 1, 2, 1.5]), 0.0).tolist() == [False, False, True, False]
    assert active(torch.tensor([3.0, 2, 1, 2, 1.5]), -1e9).tolist() == [False, False, True, True]
    both = torch.stack([NORMS, NORMS.flip(0)])
    assert active(both, 0.8).tolist() == [active(each, 0.8).tolist() for each in both]


@pytest.mark.parametrize("arch", ["llama", "gpt2", "opt"])
def test_the_prediction_is_that_of_the_last_active_layer(arch: str) -> None:
    """For every token of a forward, by the norms of its own states."""
    engine, text = deep(arch), PROMPTS[0]
    names = tuple(f"hidden:{layer}" for layer in range(7))
    session = Session(engine)
    session.follow(text)
    found = session._extend(text, EMPTY, Watch(names))._parts[-1]
    states = torch.stack([found._output.captured[name][0] for name in names], 1)
    runs, places = active(states.norm(dim=-1), 0.5), set()
    session.follow(())
    session.follow(text)
    hidden = session._extend(text, EMPTY, LastActive(0.5))._parts[-1]._output.hidden[0]
    session.close()
    for token in range(len(text)):
        last = 1 + max((layer for layer in range(6) if runs[token, layer]), default=5)
        places.add(last)
        with torch.inference_mode():
            torch.testing.assert_close(hidden[token], engine.parts.norm(states[token, last]))
    assert len(places) > 1 or arch != "llama"


def test_nano_leaves_out_what_was_void_in_the_prompt() -> None:
    engine, prompt = nano()
    survey, session = Survey(0.8), Session(engine)
    session.follow(prompt)
    session.read(EMPTY, survey)
    session.close()
    void = survey.majority()
    assert set(range(2, 8)) <= void <= set(range(1, 10)), "the first layer changes far more than any other"
    assert survey.tokens == [len(prompt)]
    session, _ = steps(LacSkip(mode="prompt"), prompt, 9, engine)
    found = session.work.compute.numbers()
    assert found["attention"] == found["mlp"] == 10 * len(prompt) + (10 - len(void)) * 8
    assert found["keys"] < found["all_keys"]
    exits, _ = steps(LacSkip(mode="exit"), prompt, 9, engine)
    assert exits.work.compute.numbers()["mlp"] == 10 * exits.work.positions, "an exit spares nothing"


def test_an_even_split_of_the_prompt_is_no_majority() -> None:
    survey = Survey(0.8, [torch.tensor([2, 1, 3]), torch.tensor([0, 1, 1])], [3, 1])
    assert survey.majority() == {2}


def test_depth_falls_to_the_least_and_never_rises() -> None:
    falling = SkipDecode(least=4, horizon=10)
    assert [falling.depth(place, 10) for place in range(10)] == [10, 9, 9, 8, 7, 7, 6, 5, 5, 4]
    for strategy in (falling, SkipDecode(), SkipDecode(least=2, warm=3, horizon=7)):
        depths = [strategy.depth(place, 10) for place in range(200)]
        assert depths == sorted(depths, reverse=True)
        assert depths[0] == 10
        assert depths[-1] == max(strategy.least, strategy.warm)
    assert falling.skipped(9, 10) == range(1, 7)
    assert SkipDecode(least=2, warm=3).skipped(1000, 10) == range(3, 10)


def test_a_layer_that_runs_has_the_keys_of_all_tokens_before() -> None:
    strategy = SkipDecode(least=2, warm=1, horizon=12)
    ran = [set(range(6)) - set(strategy.skipped(place, 6)) for place in range(40)]
    assert all(later <= earlier for earlier, later in pairwise(ran))
    session, _ = steps(strategy, PROMPTS[0], 20, deep())
    assert session.work.compute.numbers()["mlp"] == 6 * len(PROMPTS[0]) + sum(map(len, ran[:19]))


@pytest.mark.parametrize("strategy", [SkipDecode(least=2, horizon=4), LacSkip(mode="prompt", alpha=0.3)],
                         ids=lambda strategy: strategy.name)
def test_a_second_answer_does_not_read_missing_keys(strategy: Strategy) -> None:
    """A session that goes on with a longer prompt gives what a new one does, alone and in a batch."""
    engine, text = deep(), list(PROMPTS[0])

    def answered(prompt: list[int], session: Session) -> list[int]:
        found: list[int] = []
        for step in strategy.generate(session, Request(tuple(prompt), 12, PhiloxStream(0))):
            found += step
            if len(found) == 12:
                break
        return found

    def twice(prompt: list[int]) -> list[int]:
        session = Session(engine)
        first = answered(prompt, session)
        second = answered([*prompt, *first, 7, 8], session)
        session.close()
        fresh = Session(engine)
        assert answered([*prompt, *first, 7, 8], fresh) == second
        fresh.close()
        return second
    alone = [twice(text), twice(text[:5])]
    assert run_batched([engine], [partial(twice, text), partial(twice, text[:5])]) == alone


def test_a_skipped_layer_is_not_asked_by_its_own_plan() -> None:
    """The same answer with other contents in the slots of the skipped layers."""
    engine, text, hook = deep(), list(PROMPTS[0]), Skip(frozenset({2, 3}), frozenset({2, 3}))
    found = []
    for noise in (0.0, 9.0):
        session = Session(engine)
        session.follow(text)
        session.read()
        answer = list(text)
        for token in (5, 6, 7):
            answer.append(token)
            session.follow(answer)
            logits = session.read(EMPTY, hook).logits
            with torch.inference_mode():
                for layer in (2, 3):
                    engine.cache.layers[layer].keys[session.row.index, :, len(answer) - 1] = noise
                    engine.cache.layers[layer].values[session.row.index, :, len(answer) - 1] = noise
        found.append(logits)
        session.close()
    assert torch.equal(*found)
