"""Canvases: what each cache mode computes, what it takes from earlier forwards, and which models they are for."""

from types import SimpleNamespace

import pytest
import torch

from harness.decoding.canvas import Canvas
from harness.engine.canvas_settings import CanvasSettings, canvas_settings
from harness.engine.engine import Engine
from harness.engine.logit_warps import temperature
from harness.engine.session import Session
from harness.errors import Unsupported, UserError
from tests.canvases import MASK, random_canvas, settings
from tests.models import tiny_model

PROMPT = [5, 11, 3, 7, 9, 4]
NEW = [21, 22, 23, 24, 25, 26, 27, 28]


def opened(engine: Engine, cache: str, size: int = 4) -> Canvas:
    canvas = Canvas(Session(engine), PROMPT, cache)
    canvas.extend(len(NEW))
    canvas.advance(size)
    return canvas


@torch.inference_mode()
def plain(engine: Engine, canvas: Canvas, block: int) -> torch.Tensor:
    """The logits of the window by the model alone, eagerly, with a mask made by hand."""
    count, (first, last) = len(canvas.tokens), canvas.window
    shift = int(engine.canvas is not None and engine.canvas.shift)
    seen = torch.tensor([[not block or j // block <= i // block for j in range(count)] for i in range(count)])
    mask = torch.zeros(count, count).masked_fill(~seen, torch.finfo(torch.float32).min)
    logits: torch.Tensor = engine.model(
        input_ids=torch.tensor([canvas.tokens]), attention_mask=mask[None, None], use_cache=False).logits[0]
    return logits[first - shift:last - shift]


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    others = torch.arange(a.shape[1]) != MASK
    return bool(torch.allclose(a[:, others], b[:, others], atol=1e-5))


@pytest.mark.parametrize(("shift", "block", "both"), list(settings()))
@torch.inference_mode()
def test_modes_without_approximation_are_the_plain_model(shift: bool, block: int, both: bool) -> None:
    engine = random_canvas(shift, block, both)
    assert engine.canvas is not None
    for cache in {"none", "block"} & set(engine.canvas.caches):
        canvas, left = opened(engine, cache), list(NEW)
        while canvas.open:
            for place in [*canvas.open[1::2], *canvas.open[::2]]:
                logits = canvas.look()
                assert close(logits, plain(engine, canvas, engine.canvas.blocks(cache)))
                assert (logits[:, MASK] == -torch.inf).all()
                canvas.write({place: left.pop()})
            canvas.advance(4)
        assert not left


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("cache", ["prefix", "dual"])
@torch.inference_mode()
def test_frozen_keys_are_those_of_the_first_forward_of_a_window(cache: str, shift: bool) -> None:
    """As the model computes it whose layers take the frozen keys and values from a cache of the whole text."""
    engine = random_canvas(shift)
    canvas = opened(engine, cache)
    first = canvas.look()
    assert close(first, plain(engine, canvas, 0))
    assert close(canvas.look(), first), "nothing has changed"
    lead, last, count = canvas.window[0] - shift, canvas.window[1], len(canvas.tokens)
    before = engine.model(input_ids=torch.tensor([canvas.tokens]), attention_mask=torch.zeros(1, 1, count, count),
                          use_cache=True).past_key_values
    canvas.write({canvas.open[1]: 30})
    own = range(lead, count if cache == "prefix" else last)
    frozen = [place for place in range(count) if place not in own]
    for layer in before.layers:
        layer.keys, layer.values = layer.keys[:, :, frozen], layer.values[:, :, frozen]
    logits = engine.model(input_ids=torch.tensor([[canvas.tokens[place] for place in own]]),
                          position_ids=torch.tensor([list(own)]), use_cache=True,
                          attention_mask=torch.zeros(1, 1, len(own), count), **{engine.cache_argument: before}
                          ).logits[0]
    found = canvas.look()
    assert close(found, logits[:last - lead - shift])
    assert not close(found, plain(engine, canvas, 0)), "an approximation"
    canvas.write(dict.fromkeys(canvas.open, 31))
    assert canvas.advance(4)
    assert close(canvas.look(), plain(engine, canvas, 0)), "a new window begins with the whole canvas"


@pytest.mark.parametrize(("cache", "full", "partial", "positions"), [
    ("none", 4, 0, 4 * 14), ("prefix", 2, 2, 2 * 14 + 8 + 4), ("dual", 2, 2, 2 * 14 + 4 + 4)])
@torch.inference_mode()
def test_counts(cache: str, full: int, partial: int, positions: int) -> None:
    session = Session(random_canvas())
    canvas = Canvas(session, PROMPT, cache)
    canvas.extend(len(NEW))
    while canvas.advance(4):
        canvas.look()
        canvas.look()
        canvas.write(dict.fromkeys(canvas.open, 9))
    assert (canvas.full, canvas.partial, canvas.edits) == (full, partial, 0)
    assert (session.work.forwards, session.work.positions) == (full + partial, positions)


@torch.inference_mode()
def test_a_block_is_computed_with_the_final_tokens_of_the_one_before() -> None:
    """Blocks of 4 from the start: the prompt of 6 ends within the second, whose window is places 6 and 7."""
    session = Session(random_canvas(False, 4))
    canvas, positions = Canvas(session, PROMPT, "block"), list[int]()
    canvas.extend(len(NEW))
    while canvas.advance(32):
        for _ in range(2):
            before = session.work.positions
            canvas.look()
            positions.append(session.work.positions - before)
        canvas.write(dict.fromkeys(canvas.open, 9))
    assert positions == [8, 4, 8, 4, 6, 2]
    assert (canvas.full, canvas.partial) == (1, 5)


@torch.inference_mode()
def test_tokens_are_taken_in_the_order_of_the_text() -> None:
    canvas = opened(random_canvas(), "none", 8)
    canvas.write({8: 22})
    assert canvas.take() == []
    canvas.write({6: 20, 7: 21, 10: 24})
    assert canvas.take() == [20, 21, 22]
    canvas.write({7: 31})
    assert (canvas.edits, canvas.take()) == (1, [])
    canvas.cut(10)
    assert (len(canvas.tokens), canvas.window, canvas.open, canvas.ended) == (11, (6, 11), [9], True)
    canvas.write({9: 23})
    assert canvas.take() == [23, 24]
    assert not canvas.advance(8)


def test_what_a_canvas_needs() -> None:
    engine = Engine(tiny_model("llama"), 512)
    assert (engine.canvas, "causal" in engine.offers) == (None, True)
    with pytest.raises(Unsupported, match=r"^needs a model that fills masks in any order$"):
        Canvas(Session(engine), PROMPT)
    with pytest.raises(Unsupported, match="no cache mode block for this model; give none or prefix or dual"):
        Canvas(Session(random_canvas()), PROMPT, "block")
    session = Session(random_canvas())
    with session.with_logit_warp(temperature(0.5)), pytest.raises(Unsupported, match="cannot be combined"):
        Canvas(session, PROMPT)
    with pytest.raises(UserError, match="has 513 tokens but the context of the model is 512; lower --max-new-tokens"):
        Canvas(session, PROMPT).extend(507)


@pytest.mark.parametrize("field", [[1], {"mask": 97}, {"mask": -1}, {"mask": 1, "size": 3}, {"mask": 1, "block": 0.5}])
def test_wrong_settings_are_refused(field: object) -> None:
    model = tiny_model("llama")
    model.config.canvas = field
    with pytest.raises(UserError, match=r"The field canvas of config.json must be like .* a token below 97"):
        Engine(model, 512)


def test_settings_come_from_the_configuration() -> None:
    model = tiny_model("llama")
    model.config.canvas = {"mask": 96, "shift": True, "block": 16}
    engine = Engine(model, 512)
    assert engine.canvas == CanvasSettings(96, shift=True, block=16)
    assert "causal" not in engine.offers
    assert engine.canvas.caches == ("none", "block")
    assert canvas_settings(SimpleNamespace(model_type="llada", mask_token_id=126336)) == CanvasSettings(126336)
    assert canvas_settings(SimpleNamespace(model_type="Dream", mask_token_id=151666)) == CanvasSettings(151666, True)
    assert CanvasSettings(1, block=4, both=True).caches == ("none", "prefix", "dual", "block")
