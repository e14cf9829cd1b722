"""Learn2PD: what its filter is shown, what it learns, and how many masks it fills."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.engine.random_stream import PhiloxStream
from harness.errors import Unsupported, UserError
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request
from strategies.canvas_oracle import CanvasOracle
from strategies.canvas_schedule import CanvasSchedule
from strategies.learn2pd import Learn2PD
from strategies.parts.parallel_filter import CLOSED, WIDTH, Filter
from strategies.tools import learn2pd as tool
from strategies.tools.learn2pd import Shown, fitted, main, report, shown
from tests.canvases import random_canvas
from tests.decode import decode, traced
from tests.models import prompts

PROMPT = prompts(1, 97, 1)[0]


@pytest.fixture
def made(tmp_path: Path) -> str:
    torch.manual_seed(0)
    file = tmp_path / "filter.safetensors"
    Filter(torch.randn(WIDTH, WIDTH), torch.randn(WIDTH), torch.randn(WIDTH, WIDTH), torch.randn(WIDTH)).save(file)
    return str(file)


@pytest.mark.parametrize("block", [8, 32])
def test_a_threshold_of_one_is_the_schedule(made: str, block: int) -> None:
    target = random_canvas()
    found = decode(Learn2PD(block=block, threshold=1.0, file=made), target, PROMPT, new=20, eos=None)
    assert found == decode(CanvasSchedule(block=block), target, PROMPT, new=20, eos=None)


def test_a_threshold_of_zero_fills_a_window_at_once(made: str) -> None:
    _, work, _ = traced(Learn2PD(block=8, threshold=0.0, file=made), random_canvas(), PROMPT, new=24, eos=None)
    assert work.forwards == 3


def test_the_filter_decides_place_by_place(made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that is sure of every other place fills these first, and the best one in any case."""
    monkeypatch.setattr(Filter, "chances", lambda self, values: [float(place % 2) for place in range(len(values))])
    _, work, _ = traced(Learn2PD(block=8, file=made), random_canvas(), PROMPT, new=8, eos=None)
    assert work.filled.count(1) in (4, 5)
    assert {place for place, step in enumerate(work.filled) if step == 1} >= {1, 3, 5, 7}


def test_it_is_shown_which_tokens_are_those_of_the_answer() -> None:
    target, oracle = random_canvas(), CanvasOracle(block=8)
    request = Request(tuple(PROMPT), 16, PhiloxStream(0), frozenset())
    rows = shown(target, request, oracle)
    final = decode(oracle, target, PROMPT, new=16, eos=None)
    assert final == decode(CanvasSchedule(block=8), target, PROMPT, new=16, eos=None)
    assert len(rows) == traced(oracle, target, PROMPT, new=16, eos=None)[1].forwards
    for confidences, right, still in rows:
        assert len(confidences) == len(right) == len(still) == WIDTH
        assert all(value == CLOSED for value, here in zip(confidences, still, strict=True) if not here)
        assert sum(right) <= sum(still) <= 8
        assert not any(right[place] and not still[place] for place in range(WIDTH))


def test_it_learns_from_which_confidence_on_tokens_are_right() -> None:
    torch.manual_seed(1)
    values, still = torch.rand(1500, WIDTH), (torch.rand(1500, WIDTH) < 0.7).float()
    still[:, 8:] = 0  # windows of 8 places
    some = Shown(torch.where(still > 0, values, 1.0), (values > 0.6).float() * still, still)
    made = fitted(Shown(*(part[:1200] for part in some)), epochs=1000)
    held_out = Shown(*(part[1200:] for part in some))
    chosen = (made.logits(held_out.confidences).sigmoid() > 0.5) & (held_out.open > 0)
    right = held_out.right > 0
    assert (chosen & right).sum() / right.sum() > 0.9
    assert (chosen & right).sum() / chosen.sum() > 0.9
    assert len(list(report(made, held_out, 0.96))) == 2


def test_without_a_filter_it_says_how_to_train_one(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="needs a filter: train one with python"):
        decode(Learn2PD(), random_canvas(), PROMPT, new=4)
    file = tmp_path / "text.safetensors"
    file.write_text("no filter")
    with pytest.raises(UserError, match="cannot be read as a filter"):
        STRATEGIES.build(f"learn2pd:file={file}")


def test_windows_that_are_too_wide_are_refused(made: str) -> None:
    with pytest.raises(Unsupported, match="windows of 32 places at most; lower block"):
        decode(Learn2PD(block=40, file=made), random_canvas(), PROMPT, new=40)


def test_a_model_that_fills_no_masks_is_refused(capsys: Any, tmp_path: Path) -> None:
    assert main(["--model", "nano-draft", "--out", str(tmp_path / "filter")]) == 2
    assert "nano-draft fills no masks" in capsys.readouterr().err


def test_too_few_prompts_and_a_missing_folder_are_told_before_any_work(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert main(["--model", "nano-draft", "--out", str(tmp_path / "missing" / "filter")]) == 2
    assert "There is no folder" in capsys.readouterr().err
    monkeypatch.setattr(tool, "load", lambda name: SimpleNamespace(engine=SimpleNamespace(offers={"canvas"})))
    monkeypatch.setattr(tool.prompts, "of_nano", lambda *_: [PROMPT] * 3)
    (tmp_path / "packed.safetensors").touch()
    assert main(["--model", str(tmp_path), "--out", str(tmp_path / "filter")]) == 2
    assert "3 prompts are too few" in capsys.readouterr().err
    assert main(["--model", "owner/name", "--out", str(tmp_path / "filter")]) == 2
    assert "Which prompts should 'owner/name' answer?" in capsys.readouterr().err
