"""Sparse frontier: the test of sparsity without loss, and the table and plot of two runs on nano."""

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy.stats import t

from harness.errors import UserError
from harness.plugins.study import Setting
from harness.stats.welch import welch
from harness.store.config import RunConfig
from harness.store.folder import Store
from studies.sparse_frontier import COLUMNS, SparseFrontier, safe, with_safe


def said(text: str) -> None:
    assert text


def test_welch() -> None:
    """Golden by the formula: means 2 and 5 of variances 1 and 4, three values each, t = −3 / √(5/3)."""
    degrees = (5 / 3) ** 2 / ((1 / 3) ** 2 / 2 + (4 / 3) ** 2 / 2)
    assert welch([1, 2, 3], [3, 5, 7]) == pytest.approx(2 * t.sf(3 / (5 / 3) ** 0.5, degrees))
    assert (welch([1, 1], [1, 1]), welch([1, 1], [0, 0])) == (1, 0)
    assert welch([1], [0, 1]) != welch([1], [0, 1])  # NaN


@pytest.mark.parametrize(("tests", "largest"), [
    ([(0.5, 0.9), (0.75, 0.3), (0.9, 0.04)], 0.75), ([(0.9, 0.5), (0.5, 0.05), (0.75, 0.2)], 0.9),
    ([(0.5, 0.01), (0.75, 0.5), (0.9, 0.5)], 0.0), ([], 0.0)])
def test_the_largest_sparsity_without_loss(tests: list[tuple[float, float]], largest: float) -> None:
    assert safe(tests) == largest


def test_all_tasks_are_as_safe_as_the_worst() -> None:
    found_in = {"a": ((1.0, 0.9), (0.5, 0.5)), "b": ((0.8, 0.4), (0.0, 0.01))}
    rows = [("m", task, pattern, sparsity, 1 - sparsity, 10 * number, score, p)
            for number, (task, found) in enumerate(found_in.items())
            for pattern, sparsity, (score, p) in [("dense", 0.0, (1.0, float("nan"))), ("quest", 0.5, found[0]),
                                                  ("quest", 0.9, found[1])]]
    table = with_safe(pd.DataFrame(rows, columns=COLUMNS[:-1]))
    every = table[table["task"] == "all"].set_index("sparse")
    assert list(every.index) == [0, 0.5, 0.9]
    assert list(every["score"]) == [1, 0.9, 0.25]
    assert list(every["mflop"]) == [5, 5, 5]
    assert every.loc[0.9, "p"] == 0.01
    assert set(every["safe"].dropna()) == {0.5}
    assert set(table[table["task"] == "a"]["safe"].dropna()) == {0.9}


def test_table_and_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studies.sparse_frontier.SPARSITIES", (0.5, 0.9))
    study = SparseFrontier(page=8)
    config = RunConfig(model="nano-draft", tasks=("nano_math", "nano_needle:length=64"), limit=2)
    table = study.table(Setting(config, tmp_path, said))
    assert set(table["model"]) == {"nano-draft"}
    assert list(table["task"]) == ["nano_math"] * 5 + ["nano_needle"] * 5 + ["all"] * 5
    assert list(table["pattern"][:5]) == ["dense", "quest", "quest", "snapkv", "snapkv"]
    dense, *sparse = table["keys"][:5]
    assert dense == 1
    bounds = 1 / 8  # two of each page of eight keys, half a key each
    assert sparse[0] == pytest.approx(0.5 + bounds, abs=0.05) == pytest.approx(sparse[1] + 0.4, abs=0.1)
    assert sparse[2] > sparse[3]
    records = {record.example: record for record in Store.open(tmp_path / "nano-draft").records()
               if record.task == "nano_math" and record.strategy == "greedy"}
    sizes = Store.open(tmp_path / "nano-draft").manifest.model.sizes
    assert sizes is not None
    tokens, keys = [[sum(getattr(turn.computed, name)[1] for turn in record.turns) for record in records.values()]
                    for name in ("logits", "keys")]
    weights = sizes.layers * (sizes.attention + sizes.mlp) + sizes.head
    operations = 2 * weights * sum(tokens) + 4 * sizes.query * sum(keys)
    assert table["mflop"][0] == pytest.approx(operations / len(records) / 1e6)
    axes = Figure().subplots()
    study.plot(table, axes)
    assert len(axes.lines) == 3
    assert axes.lines[0].get_xdata()[0] == table["mflop"][10]


def test_tasks_without_a_score_are_refused(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("Tom found a brown hat and an old saw in the village. " * 3)
    spec = f"continuation:file={tmp_path / 'texts.txt'},prefix=4,target=2"
    with pytest.raises(UserError, match="needs tasks with a score, and continuation:"):
        SparseFrontier().table(Setting(RunConfig(model="nano-draft", tasks=(spec,), limit=1), tmp_path, said))
