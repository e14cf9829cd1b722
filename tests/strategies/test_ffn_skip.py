"""MLPs that are skipped, counted, on nano and on tiny models; tests/strategies/test_selfdraft.py has their logits."""

import pytest

from harness.engine.random_stream import PhiloxStream
from harness.plugins.strategy import Request
from strategies.ffn_skip import FfnSkip, SkipAlike, drawn, rounded
from tests.self_drafting import PROMPTS, deep, greedy, nano, steps


def skipped(strategy: FfnSkip, new: int = 12) -> float:
    """MLPs of nano that each token after the prompt skips on average."""
    engine, prompt = nano()
    session, _ = steps(strategy, prompt, new, engine)
    return (10 * session.work.positions - session.work.compute.numbers()["mlp"]) / (new - 1)


def test_nano_skips_the_papers_share_at_the_defaults() -> None:
    """Of ten MLPs three, for every token whose second layer changes it little; none in the prompt and the warm-up."""
    assert 2.5 <= skipped(FfnSkip(warm_up=0)) <= 3
    assert skipped(FfnSkip()) == 0
    assert skipped(FfnSkip(cold=0.4, warm_up=0)) <= 1, "four layers at either end leave one"
    assert skipped(FfnSkip(threshold=-1.0, share=0.5, warm_up=0)) == 5
    assert skipped(FfnSkip(threshold=-1.0, share=1.0, cold=0.0, warm_up=0)) == 9, "the first layer always runs"


def test_the_control_skips_as_many() -> None:
    assert skipped(FfnSkip(order="random", warm_up=0)) == 3
    assert skipped(FfnSkip(order="random", share=1.0, cold=0.0, warm_up=0)) == 9
    sets = {drawn(range(8), 3, Request((5,), 9, PhiloxStream(seed))).mlp for seed in range(60)}
    assert {len(each) for each in sets} == {3}
    assert frozenset(range(1, 8)) == frozenset().union(*sets)


@pytest.mark.parametrize("knobs", [{"share": 0.0}, {"cold": 0.5}, {"warm_up": 30}])
def test_the_control_can_skip_nothing(knobs: dict[str, float]) -> None:
    _, blocks = steps(FfnSkip(**{"order": "random", "warm_up": 0} | knobs), PROMPTS[0], 20, deep())  # type: ignore[arg-type]
    assert [token for block in blocks for token in block] == greedy(PROMPTS[0], 20, deep())


def test_shares_of_layers_are_rounded() -> None:
    assert [rounded(each) for each in (0.0, 1.25, 2.5, 3.5, 3.75)] == [0, 1, 3, 4, 4]
    assert SkipAlike(0.98, 0.25, 0.125).middle(32) == (range(4, 28), 8)
    assert SkipAlike(0.98, 0.25, 0.125).middle(10) == (range(1, 9), 3)
