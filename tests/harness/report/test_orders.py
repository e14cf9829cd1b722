"""The order of decoding of canvases: in records, in tables and in pictures."""

from pathlib import Path

import pytest

from harness.measure.summary import summarise
from harness.report import detail, tables
from harness.report.page_samples import samples_of
from harness.report.plots import of_samples
from harness.store.folder import Store
from tests.harness.run.test_canvas_models import canvas_model, decoded
from tests.runs import manifest, record, strategy, task, turn, write

SLOW, FAST, OTHER = "canvas_schedule:block=8", "canvas_threshold:block=8,threshold=0", "greedy"
FILLED = {SLOW: [3, 1, 2, 4], FAST: [1, 1, 1, 2]}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    entries = [strategy(SLOW, "diffusion", "changes-output"), strategy(FAST, "diffusion", "changes-output"),
               strategy(OTHER, "baseline")]
    records = [record("math", example, spec, [turn([2, 2], [0.2, 0.4]).model_copy(
        update={"filled": filled, "steps": turn([2, 2], [0.2, 0.4]).steps.model_copy(
            update={"forwards": [max(filled), 0], "positions": [20 * max(filled), 0]})})], 1)
        for example in ("a", "b") for spec, filled in FILLED.items()]
    records += [record("math", example, OTHER, [turn([2, 2], [0.2, 0.4])], 1) for example in ("a", "b")]
    return write(tmp_path / "run", manifest(entries, [task("math")]), records)


def test_a_record_tells_which_forward_filled_each_place(tmp_path: Path) -> None:
    specs = (SLOW, FAST, "joint_threshold:block=8,edit_rounds=2")
    records = {(one.strategy.partition(":")[0], one.example): one.turns[0] for one in decoded(
        tmp_path / "run", canvas_model(), specs, baseline=SLOW).records()}
    for (name, _), answer in records.items():
        assert len(answer.filled) == len(answer.tokens)
        windows = [answer.filled[first:first + 8] for first in range(0, len(answer.filled), 8)]
        if name == "canvas_schedule" and len(windows[0]) == 8:
            assert sorted(windows[0]) == [*range(1, 9)], "one a forward"
        if name == "canvas_threshold":
            assert windows == [[number] * len(window) for number, window in enumerate(windows, 1)]
    assert any(len(answer.filled) > 8 for answer in records.values())


def test_tables_have_tokens_per_forward_and_the_width_of_forwards(store: Store) -> None:
    summary = summarise(store)
    assert summary["tokens_per_forward"].tolist()[:2] == [1.0, 2.0]
    assert summary["tau_pooled"].isna().tolist() == [True, True, False], "a step may take several forwards"
    assert summary["forward_width"].tolist()[:2] == [20.0, 20.0]
    assert summary.loc[2, ["tokens_per_forward", "forward_width"]].isna().all(), "not written from left to right"
    assert [column.title for column in tables.parallel_columns(summary)] == ["TPF", "pos/fwd"]
    assert not tables.parallel_columns(summary.drop(columns=["tokens_per_forward", "forward_width"]))


def test_the_picture_has_a_panel_for_each_strategy_that_fills_masks(store: Store) -> None:
    contents = detail.collect([store])
    index, _ = samples_of([store], [store.length()])
    orders = [{"example": "a", "filled": one} for one in FILLED.values()]
    assert [cell["order"] for cell in index["cells"]] == [*orders, {}]
    figure = of_samples(contents, "math", index)["order"]
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title("left") for axes in panels] == [
        "canvas_schedule: 4 tokens, 4 forwards", "canvas_threshold: 4 tokens, 2 forwards"]
    for axes, filled in zip(panels, FILLED.values(), strict=True):
        (dots,) = axes.lines
        assert list(zip(*dots.get_data(), strict=True)) == list(enumerate(filled, 1))
        assert axes.get_ylim() == panels[0].get_ylim()
    assert "order" not in of_samples(contents, "math", {"cells": [index["cells"][-1]]})
