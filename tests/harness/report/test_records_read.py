"""How often a merge and its report read each record, unpack each cell and draw each figure: counts, no times."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from harness.cli.report import render
from harness.measure.raw import PackedCell
from harness.store.folder import Store
from harness.store.merge import merge
from harness.store.schema import Record, Sample
from tests.runs import realistic, write
from tests.scale import scaled

SHARDS = 3


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return the numbers of calls so far."""
    found = Counter[str]()

    def count(kind: type, name: str) -> None:
        original: Callable[..., Any] = getattr(kind, name)
        bound = isinstance(vars(kind).get(name), type(lambda: None))  # else a class method of pydantic's

        def counted(*arguments: Any, **options: Any) -> Any:
            found[kind.__name__] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(kind, name, counted if bound else staticmethod(counted))

    count(Record, "model_validate_json")
    count(Sample, "model_validate_json")
    count(PackedCell, "cell")
    count(Figure, "draw")
    return found


def test_a_merge_and_its_report_read_each_record_three_times(tmp_path: Path, counts: Counter[str]) -> None:
    whole = realistic(tmp_path / "whole", examples=3)
    records = list(whole.records())
    for shard in range(SHARDS):
        config = whole.manifest.config | {"shard": f"{shard + 1}/{SHARDS}"}
        write(tmp_path / "shards" / f"shard-{shard + 1}-of-{SHARDS}",
              whole.manifest.model_copy(update={"config": config}),
              [record for record in records if int(record.example.rpartition("/")[2]) % SHARDS == shard])
    counts.clear()
    folder = merge([tmp_path / "shards"], tmp_path / "merged", "merge").store.folder
    assert counts == {"Sample": len(records)}, "to count them; the lines are copied"
    render([folder], folder / "report")
    assert counts["Record"] == 2 * len(records), "once for the tables, once for the page"
    assert counts["Sample"] == 2 * len(records), "once more for the order of the examples on the page"
    cells = {(record.task, record.strategy) for record in records}
    tasks = len({task for task, _ in cells})
    assert counts["PackedCell"] <= 4 * len(cells) + tasks, "sums, speed, acceptance and tokens per step, and baselines"
    figures = len(list((folder / "report" / "plots").glob("*.svg")))
    assert figures >= scaled(0, 2 * tasks), "`make test` draws none here"
    assert counts["Figure"] == 4 * figures, "once for the layout, and once for each of three formats"
    assert Store.open(folder).manifest.merged == [f"shard-{number + 1}-of-{SHARDS}" for number in range(SHARDS)]
