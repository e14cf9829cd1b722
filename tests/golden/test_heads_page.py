"""The tables of docs/heads.md are those of the run in results/heads."""

from pathlib import Path

from benchmarks.heads import MORE, RUN, faster_table, heads_table, speeds_table
from harness.store.folder import Store


def test_the_tables_are_those_of_the_run() -> None:
    text, store = (Path(__file__).resolve().parents[2] / "docs" / "heads.md").read_text(), Store.open(RUN)
    assert heads_table(store) in text, "print them with python -m benchmarks.heads"
    assert speeds_table(store) in text
    assert faster_table(Store.open(MORE)) in text
