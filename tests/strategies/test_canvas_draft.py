"""Drafts from a model that fills masks: the target's own tokens, whatever the drafts are, and what they cost."""

from pathlib import Path

import pytest

from harness.decoding.canvas import Canvas
from harness.engine.engine import Engine
from harness.engine.session import Session
from harness.plugins.registry import STRATEGIES
from harness.run.runner import run
from harness.store.config import RunConfig
from harness.store.folder import Store
from tests.canvases import random_canvas
from tests.decode import decode, traced
from tests.harness.run.test_canvas_models import canvas_model
from tests.models import prompts, tiny_model
from tests.pair import saved
from tests.watch import Quiet

PROMPTS = [prompt * 2 for prompt in prompts(4, 97, 1)]
NEW = 24


@pytest.fixture
def target() -> Engine:
    return Engine(tiny_model("llama", layers=2), 512)


@pytest.mark.parametrize(("shift", "block"), [(False, 0), (True, 0), (False, 4), (True, 4), (True, 1)])
@pytest.mark.parametrize("spec", ["gamma=6,least=0", "gamma=1,least=0", "gamma=6,least=0.2"])
def test_whatever_is_drafted_the_text_is_greedys(target: Engine, shift: bool, block: int, spec: str) -> None:
    for prompt in PROMPTS:
        tokens, work, drafts = traced(STRATEGIES.build(f"canvas_draft:{spec}"), target, prompt, new=NEW, eos=None,
                                      draft=random_canvas(shift, block))
        assert tokens == decode(STRATEGIES.build("greedy"), target, prompt, new=NEW, eos=None)
        assert work.forwards - 2 <= drafts.forwards < work.forwards, "one forward a draft"
        assert work.drafted or "0.2" in spec


def test_a_draft_model_that_is_the_target_is_always_right(target: Engine) -> None:
    """Blocks of one token with a shift are the causal model, which drafts one token at a time."""
    _, work, drafts = traced(STRATEGIES.build("canvas_draft:least=0"), target, PROMPTS[0], new=NEW, eos=None,
                                  draft=random_canvas(True, 1))
    assert work.accepted == work.drafted == NEW // 2 - 1
    assert work.forwards == 1 + NEW // 2
    assert drafts.positions < len(PROMPTS[0]) + 3 * NEW


@pytest.mark.parametrize("cache", ["block", "none"])
def test_a_canvas_that_begins_again_keeps_what_it_shares(cache: str) -> None:
    engine, text = random_canvas(True, 4), [*range(5, 28)]
    sessions = Session(engine), Session(engine)
    canvas = Canvas(sessions[0], (), cache)
    for size in (11, 12, 19, 9, 23):
        other = [*text[:size - 1], 60 + size]  # the last token is new each time
        fresh = Canvas(sessions[1], other, cache)
        canvas.restart(other)
        for one in (canvas, fresh):
            one.extend(3)
            assert one.advance(3)
        assert (canvas.look() - fresh.look()).abs().nan_to_num(0).max() < 1e-4
        assert canvas.window == fresh.window
    if cache == "block":
        assert sessions[0].work.positions < sessions[1].work.positions
    for session in sessions:
        session.close()


def test_each_strategy_says_which_draft_model_it_needs(tmp_path: Path) -> None:
    for name, draft in (("causal", str(saved("llama"))), ("canvas", canvas_model())):
        config = RunConfig(model=str(saved("llama")), draft=draft, tasks=("nano_math",), limit=1, max_new_tokens=8,
                           strategies=("canvas_draft", "speculative", "lenience", "greedy"), device="cpu", threads=1,
                           output=tmp_path / name)
        assert run(config, Quiet(), "decodebench run").failed == 0
        reasons = {entry.name: entry.unsupported for entry in Store.open(tmp_path / name).manifest.strategies}
        expected = {"canvas_draft": "needs a draft model that fills masks in any order"} if \
            name == "causal" else dict.fromkeys(("speculative", "lenience"),
                                                "needs a draft model that writes from left to right")
        assert {one: reason for one, reason in reasons.items() if reason} == expected
