"""Strategies for diffusion language models: each at its degenerate setting, and the laws that masks must keep."""

from functools import partial

import pytest
import torch

from harness.backends.transformers import open_session
from harness.decoding.canvas import Canvas
from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.errors import Unsupported
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request
from tests.canvases import random_canvas, settings
from tests.decode import decode, traced
from tests.models import EOS, prompts, tiny_model
from tests.scale import scaled

PROMPTS = [prompt * 2 for prompt in prompts(scaled(3, 6), 97, 1)]
NEW = 24


def texts(spec: str, engine: Engine | None = None) -> list[list[int]]:
    return [decode(STRATEGIES.build(spec), engine or random_canvas(), prompt, new=NEW, eos=None) for prompt in PROMPTS]


@pytest.mark.parametrize("more", ["", "block=8,", "block=8,cache=prefix,", "block=8,cache=dual,", "temperature=0.7,"])
@pytest.mark.parametrize("spec", ["canvas_threshold:{}threshold=1.5", "canvas_factor:{}factor=0",
                                  "canvas_factor:{}factor=0,variant=official", "canvas_frechet:{}margin=1",
                                  "joint_threshold:{}threshold=1,edit_threshold=1"])
def test_one_mask_a_step_is_the_schedule(spec: str, more: str) -> None:
    assert texts(spec.format(more)) == texts(f"canvas_schedule:{more}")


@pytest.mark.parametrize("more", ["", "block=8,cache=dual,"])
def test_a_bound_of_zero_is_the_schedule_by_entropy(more: str) -> None:
    assert texts(f"entropy_bound:{more}gamma=0") == texts(f"canvas_schedule:{more}order=entropy")
    assert texts(f"entropy_bound:{more}gamma=5") != texts(f"canvas_schedule:{more}order=entropy")


def test_the_oracle_gives_the_text_of_the_schedule_in_fewer_forwards() -> None:
    for shift, block, both in settings():
        for prompt in PROMPTS:
            slow, fast = (traced(STRATEGIES.build(f"{name}:block=8"), random_canvas(shift, block, both), prompt,
                                 new=NEW) for name in ("canvas_schedule", "canvas_oracle"))
            assert slow[0] == fast[0]
            assert fast[1].forwards <= slow[1].forwards
    assert texts("canvas_oracle:cut=true,block=8") == texts("canvas_schedule:cut=true,block=8")


def test_no_edits_are_the_threshold() -> None:
    assert texts("joint_threshold:threshold=0.3,edit_threshold=1") == texts("canvas_threshold:threshold=0.3")
    assert texts("joint_threshold:threshold=0.3,edit_threshold=0") != texts("canvas_threshold:threshold=0.3")


@pytest.mark.parametrize("spec", ["canvas_threshold:threshold=0.3", "joint_threshold", "canvas_origin:tokens=2"])
@pytest.mark.parametrize("shift", [False, True])
def test_by_blocks_the_cache_changes_forwards_and_no_token(spec: str, shift: bool) -> None:
    more = f"{spec}{',' if ':' in spec else ':'}"
    engine = random_canvas(shift, 4)
    assert texts(f"{more}cache=block", engine) == texts(f"{more}cache=none", engine)
    cached, whole = (traced(STRATEGIES.build(f"{more}cache={cache}"), engine, PROMPTS[0], new=NEW,
                            eos=None)[1] for cache in ("block", "none"))
    assert cached.forwards == whole.forwards
    assert cached.positions < whole.positions / 2


@pytest.mark.parametrize("cache", ["none", "block"])
def test_blocks_of_one_mask_are_greedy_decoding_of_the_same_model(cache: str) -> None:
    """With a shift, the logits at the last token are those of the one mask behind it, which nothing sees."""
    expected = [decode(STRATEGIES.build("greedy"), Engine(tiny_model("llama", layers=2), 512), prompt, new=NEW)
                for prompt in PROMPTS]
    found = [decode(STRATEGIES.build(f"canvas_schedule:cache={cache}"), random_canvas(True, 1), prompt, new=NEW)
             for prompt in PROMPTS]
    assert found == expected


@pytest.mark.parametrize("tokens", [1, 3, 24])
@pytest.mark.parametrize("order", ["probability", "margin", "entropy", "random"])
def test_a_schedule_takes_as_many_forwards_as_it_says(order: str, tokens: int) -> None:
    strategy = STRATEGIES.build(f"canvas_schedule:tokens={tokens},order={order}")
    found, work, _ = traced(strategy, random_canvas(), PROMPTS[0], new=NEW, eos=None)
    assert (len(found), work.forwards) == (NEW, NEW // tokens)
    assert work.positions == work.forwards * (len(PROMPTS[0]) + NEW)


def test_the_text_goes_on_with_another_canvas() -> None:
    strategy = STRATEGIES.build("canvas_schedule:canvas=8")
    _, work, _ = traced(strategy, random_canvas(), PROMPTS[0], new=20, eos=None)
    start = len(PROMPTS[0])
    assert work.positions == 8 * (start + 8) + 8 * (start + 16) + 4 * (start + 20)


def test_tokens_that_can_be_edited_are_not_given_away() -> None:
    """The tokens of a window come at once, and are those of the canvas at its end."""
    strategy = STRATEGIES.build("joint_threshold:block=8,edit_rounds=3")
    session = open_session(strategy, [random_canvas()])
    sizes = [len(step) for step in strategy.generate(session, Request(tuple(PROMPTS[0]), 20, PhiloxStream(0)))]
    session.close()
    assert sizes == [8, 8, 4]


def test_what_is_behind_an_eos_can_be_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = list[int]()
    look = Canvas.look

    def noted(canvas: Canvas) -> torch.Tensor:
        sizes.append(len(canvas.tokens))
        return look(canvas)
    monkeypatch.setattr(Canvas, "look", noted)
    found, dropped = list[bool](), 0
    for seed in range(12):
        for cut in ("false", "true"):
            sizes.clear()
            strategy = STRATEGIES.build(f"canvas_schedule:cut={cut},temperature=1")
            text = decode(strategy, random_canvas(), PROMPTS[0], new=NEW, stream=PhiloxStream(seed))
            if cut == "false":
                assert set(sizes) == {len(PROMPTS[0]) + NEW}
            elif len(set(sizes)) > 1:
                dropped += 1
                assert text[-1] == EOS
        found.append(EOS in text)
    assert any(found)
    assert dropped


@torch.inference_mode()
def test_texts_side_by_side_get_the_tokens_they_have_alone() -> None:
    for shift, block, both in settings():
        engine = random_canvas(shift, block, both)
        assert engine.canvas is not None
        for cache in engine.canvas.caches:
            strategy = STRATEGIES.build(f"canvas_threshold:threshold=0.3,block=8,cache={cache},temperature=0.5")
            jobs = [partial(decode, strategy, engine, prompt, new=16, eos=None) for prompt in prompts(8, 97, 5)]
            assert run_batched([engine], jobs, 8) == [job() for job in jobs]
    assert engine.open_rows == 0


def test_a_mode_that_the_model_has_not_is_refused() -> None:
    with pytest.raises(Unsupported, match="no cache mode prefix for this model; give none or block"):
        texts("canvas_schedule:cache=prefix", random_canvas(False, 4))
