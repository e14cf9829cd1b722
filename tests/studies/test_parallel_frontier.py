"""Parallel frontier: areas by hand, and the table and plot of runs of two tiny models."""

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from harness.errors import UserError
from harness.plugins.study import Setting
from harness.stats.aup import aup
from harness.store.config import RunConfig
from harness.store.folder import Store
from harness.store.schema import ForwardTimes
from studies import parallel_frontier
from studies.parallel_frontier import OWN, RULES, ParallelFrontier, swept, with_areas
from tests.harness.run.test_canvas_models import canvas_model
from tests.pair import saved

NEW = 12


def slow_by(width_cost: float) -> ForwardTimes:
    """A forward over one token takes 2 seconds, each further one `width_cost` more."""
    return ForwardTimes(tokens=[1, 1001], seconds=[2.0, 2.0 + 1000 * width_cost], weight_bytes=0, token_bytes=0)


def test_a_sweep_of_each_rule_and_nothing_else() -> None:
    found = list(swept(RULES, "block=8,cut=true,").values())
    assert found[:4] == [("canvas_schedule", f"tokens={count}") for count in (1, 2, 4, 8)], "plain decoding is first"
    assert {name for name, _ in found} == set(RULES)
    assert found[-1] == ("canvas_oracle", "")
    for spec in swept(RULES, "block=8,cut=true,"):
        assert {"cut=True", "block=8"} <= set(spec.partition(":")[2].split(","))
    assert list(swept(OWN)) != []


def test_areas_have_the_best_score_of_the_task_and_begin_at_plain_decoding() -> None:
    rows = [("a", "m", "schedule", "1", 74.79, 1.0), ("a", "m", "schedule", "2", 20.0, 2.0),
            ("a", "m", "threshold", ".9", 74.68, 2.77), ("a", "ar", "greedy", "", 74.98, 1.0),
            ("a", "ar", "drafts", "4", 74.98, 3.0), ("b", "m", "schedule", "1", 0.0, 1.0),
            ("b", "m", "schedule", "2", 0.0, 2.0), ("b", "m", "threshold", ".9", 0.0, 4.0),
            ("b", "ar", "greedy", "", 0.0, 1.0), ("b", "ar", "drafts", "4", 0.0, 1.0)]
    frame = pd.DataFrame(rows, columns=["task", "model", "method", "setting", "score", "tpf"])
    table = with_areas(frame.assign(width=10.0, cost=[0.5] * 5 + [1.5] * 5)).set_index(
        ["task", "method", "setting"]).sort_index()
    assert table.loc[("a", "threshold", ".9"), "aup"] == pytest.approx(205.78, abs=0.02), "of the leaderboard of d3LLM"
    for setting in "12":
        assert table.loc[("a", "schedule", setting), "aup"] == 74.79, "55 points lost are no gain"
    assert table.loc[("a", "drafts", "4"), "aup"] == pytest.approx(3 * 74.98)
    assert table.loc[("a", "greedy", ""), "aup"] == 74.98
    assert set(table.loc["a", "y_max"]) == {74.98}
    assert set(table.loc["a", "of"]) == {"greedy"}
    assert set(table.loc["b", "aup"]) == {0}, "nothing was right"
    mean = table.loc[("all", "threshold", ".9")]
    assert list(mean[["score", "tpf", "cost"]]) == pytest.approx([74.68 / 2, (2.77 + 4) / 2, 1.0])
    assert len(table.loc["all"]) == 5


@pytest.fixture
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_frontier, "RULES", {"canvas_schedule": "tokens", "learn2pd": "threshold",
                                                     "canvas_oracle": ""})
    monkeypatch.setattr(parallel_frontier, "ROUNDS", 1)


def setting(folder: Path, draft: str | None) -> Setting:
    config = RunConfig(model=canvas_model(shift=True), draft=draft, tasks=("nano_math",), limit=2, device="cpu",
                       threads=1, max_new_tokens=NEW)
    return Setting(config, folder, lambda text: None)


@pytest.mark.usefixtures("fewer")
def test_table_and_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fills, other = canvas_model(shift=True), str(saved("llama"))
    monkeypatch.setattr(parallel_frontier, "draft_name", lambda config: str(saved("llama", 1)))
    monkeypatch.setattr(parallel_frontier, "timed", lambda setting, runs: {
        fills: slow_by(0.5), other: slow_by(0.25), str(saved("llama", 1)): slow_by(0.0)})
    table = ParallelFrontier(block=8, cut=False).table(setting(tmp_path, other))
    assert list(dict.fromkeys(table["task"])) == ["nano_math", "all"]
    rows = table[table["task"] == "nano_math"]
    assert list(dict.fromkeys(rows["method"])) == ["canvas_schedule", "canvas_oracle", "greedy", "prompt_lookup",
                                                   "canvas_draft", "speculative"], "learn2pd has no filter here"
    assert dict(zip(rows["method"], rows["model"], strict=True)) == {
        "canvas_schedule": fills, "canvas_oracle": fills, "greedy": other, "prompt_lookup": other,
        "canvas_draft": other, "speculative": other}
    greedy = rows[rows["method"] == "greedy"].iloc[0]
    assert greedy["tpf"] == 1
    for method, draft_cost in (("canvas_schedule", 0.5), ("speculative", 0.0), ("canvas_draft", 0.5)):
        by_hand(tmp_path, rows, method, draft_cost, 0.5 if method == "canvas_schedule" else 0.25)
    axes = Figure().subplots()
    ParallelFrontier().plot(table, axes)
    assert [line.get_linestyle() for line in axes.lines] == ["-", "-", "--", "--", "--", "--"]
    assert sorted(axes.lines[0].get_xdata()) == sorted(rows[rows["method"] == "canvas_schedule"]["tpf"])


def by_hand(folder: Path, rows: pd.DataFrame, method: str, draft_cost: float, cost: float) -> None:
    """The figures of a method are those of its records, at these seconds for each token more in a forward."""
    records = [record for run in folder.iterdir() for record in Store.open(run).records()
               if record.strategy.startswith(f"{method}:")]
    for setting, row in rows[rows["method"] == method].set_index("setting").iterrows():
        steps = [turn.steps for record in records for turn in record.turns
                 if str(setting) in record.strategy.split(":")[1].split(",")]
        tokens, forwards, positions, drafts, drafted = (sum(sum(getattr(one, name)) for one in steps) for name in (
            "tokens", "forwards", "positions", "draft_forwards", "draft_positions"))
        assert row["tpf"] == pytest.approx(tokens / forwards)
        assert row["width"] == pytest.approx(positions / forwards)
        seconds = 2 * forwards + cost * (positions - forwards) + 2 * drafts + draft_cost * (drafted - drafts)
        assert row["cost"] == pytest.approx(seconds / 2 / tokens)
        assert row["aup"] == 0 or row["aup"] >= aup([(row["tpf"], row["score"])], row["y_max"])


@pytest.mark.usefixtures("fewer")
def test_without_a_second_model_the_first_is_timed(tmp_path: Path) -> None:
    table = ParallelFrontier(block=8).table(setting(tmp_path, None))
    assert set(table["model"]) == {canvas_model(shift=True)}
    assert (table["cost"] > 0).all()
    assert (table["width"] > NEW).all(), "the whole canvas and the prompt"


def test_a_model_that_fills_no_masks_is_refused(tmp_path: Path) -> None:
    config = RunConfig(model=str(saved("llama")), tasks=("nano_math",), limit=1, device="cpu", threads=1)
    with pytest.raises(UserError, match="needs a model that fills masks in any order"):
        ParallelFrontier().table(Setting(config, tmp_path, lambda text: None))
