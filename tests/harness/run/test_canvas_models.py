"""Models that fill masks are loaded, checked and run; what needs another kind of model is a cell that says so."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch

from harness.engine.canvas_settings import CanvasSettings
from harness.engine.engine import Engine
from harness.errors import UserError
from harness.models.loading import load
from harness.run.runner import run
from harness.store.config import RunConfig
from harness.store.folder import Store
from tests.models import PAD, tiny_model
from tests.pair import VOCAB, saved, tokenizer
from tests.watch import Quiet

LEFT_TO_RIGHT = "needs a model that writes from left to right"
ANY_ORDER = "needs a model that fills masks in any order"


@cache
def canvas_model(**settings: Any) -> str:
    """The folder of a saved tiny model whose configuration says that it fills masks."""
    folder = Path(mkdtemp(prefix="decodebench-canvas-"))
    model = tiny_model("llama", vocab=VOCAB)
    model.config.canvas = {"mask": PAD, **settings}
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def decoded(folder: Path, model: str, strategies: tuple[str, ...], **more: Any) -> Store:
    config = RunConfig(model=model, tasks=("nano_math",), strategies=strategies, limit=2, max_new_tokens=12,
                       device="cpu", threads=1, output=folder, **more)
    assert run(config, Quiet(), "decodebench run").failed == 0
    return Store.open(folder)


@pytest.mark.parametrize("settings", [{}, {"shift": True}, {"block": 4}, {"shift": True, "block": 4},
                                      {"block": 4, "both": True}])
def test_a_checkpoint_says_how_it_fills_masks(settings: dict[str, Any]) -> None:
    model = load(canvas_model(**settings))
    assert model.engine.canvas == CanvasSettings(PAD, **settings)
    assert model.engine.forwards == model.engine.open_rows == 0
    assert model.fingerprint != load(str(saved("llama"))).fingerprint


@pytest.mark.parametrize("settings", [{}, {"block": 4}])
def test_a_model_that_ignores_the_mask_is_refused(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As one would whose own code makes it causal again where there is a cache."""
    mask = Engine._mask
    monkeypatch.setattr(Engine, "_mask", lambda engine, requests, *rest: mask(
        engine, [request._replace(mask=None) for request in requests], *rest))
    with pytest.raises(UserError, match="LlamaForCausalLM does not follow the masks of a canvas: its logits are off"):
        load(canvas_model(**settings))


def test_a_canvas_model_runs_what_fills_masks(tmp_path: Path) -> None:
    names = ("canvas_schedule", "canvas_threshold:threshold=0.3", "canvas_oracle", "greedy", "top_p", "greedy+window",
             "beam", "canvas_schedule:cache=block")
    store = decoded(tmp_path / "run", canvas_model(), names, baseline="canvas_schedule")
    refused = {entry.spec.partition(":")[0]: entry.unsupported for entry in store.manifest.strategies
               if entry.unsupported and "cache=block" not in entry.spec}
    assert refused == dict.fromkeys(("greedy", "top_p", "greedy+window", "beam"), LEFT_TO_RIGHT)
    other = [entry.unsupported for entry in store.manifest.strategies if "cache=block" in entry.spec]
    assert other == ["has no cache mode block for this model; give none or prefix or dual"]
    records = list(store.records())
    assert len(records) == 2 * 3
    by_name = {(record.strategy.partition(":")[0], record.example): record.turns[0] for record in records}
    for (name, example), turn in by_name.items():
        assert sum(turn.steps.tokens) == len(turn.tokens)
        if name == "canvas_oracle":
            assert turn.tokens == by_name["canvas_schedule", example].tokens


def test_a_strategy_over_one_that_fills_masks_has_no_model(tmp_path: Path) -> None:
    over = "canvas_schedule+window"
    for number, (model, reason) in enumerate([(canvas_model(), LEFT_TO_RIGHT), (str(saved("llama")), ANY_ORDER)]):
        baseline = "greedy" if number else "canvas_schedule"
        store = decoded(tmp_path / str(number), model, (over, "canvas_schedule", "greedy"), baseline=baseline)
        found = {entry.name if "+" not in entry.spec else "over": entry.unsupported
                 for entry in store.manifest.strategies}
        assert found.pop("over") == reason
        assert set(found.values()) == {None, LEFT_TO_RIGHT if not number else ANY_ORDER}


def test_a_run_without_a_strategy_that_can_run_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^No strategy can run with this model: greedy {LEFT_TO_RIGHT}\\.$"):
        decoded(tmp_path / "run", canvas_model(), ("top_p",))
    assert not (tmp_path / "run").exists()


def test_the_batch_size_changes_no_token(tmp_path: Path) -> None:
    names = ("canvas_threshold:threshold=0.3,cache=block", "joint_threshold:cache=block", "canvas_origin:tokens=2")
    one, many = ({(record.strategy, record.example): record.turns[0].tokens for record in decoded(
        tmp_path / str(size), canvas_model(shift=True, block=4), names, baseline=names[0], concurrency=size).records()}
        for size in (1, 8))
    assert one == many
    assert len(one) == 6


@torch.inference_mode()
def test_a_prefix_that_others_share_is_not_taken(tmp_path: Path) -> None:
    """Its keys were computed from left to right."""
    alone, shared = ({(record.strategy, record.sample): record.turns[0].tokens for record in decoded(
        tmp_path / str(samples), canvas_model(), ("canvas_schedule:temperature=1",),
        baseline="canvas_schedule:temperature=1", samples=samples).records()} for samples in (1, 3))
    assert alone.items() <= shared.items()
