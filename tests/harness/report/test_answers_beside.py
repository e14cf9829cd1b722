"""Answers beside a page: those of the earlier page stay when a new one cannot be written, and all others go."""

from pathlib import Path

import pytest

from harness import report
from harness.errors import UserError
from harness.measure.raw import read
from harness.measure.summary import cells_of, combine
from harness.report import answers, page, page_samples
from harness.store.folder import Store
from tests.figures import leave_out
from tests.pages import index_and_blocks
from tests.runs import manifest, realistic, record, strategy, task, turn, write


def store_of(folder: Path, says: str) -> Store:
    records = [record("math", f"e{number}", spec, [turn([1], [0.1], text=f"{spec} {says} {number}")], 1)
               for number in range(4) for spec in ("greedy", "beam")]
    described = manifest([strategy("greedy"), strategy("beam", "search")], [task("math", examples=4)])
    return write(folder, described, records)


def test_a_page_that_fails_leaves_the_answers_of_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                 ) -> None:
    leave_out(monkeypatch)
    monkeypatch.setattr(answers, "BLOCK", 4)
    monkeypatch.setattr(answers, "EMBEDDED", 0)
    beside = tmp_path / "report" / "answers"
    report.write([store_of(tmp_path / "old", "says")], beside.parent)
    old, html = {path.name for path in beside.iterdir()}, (beside.parent / "index.html").read_bytes()
    assert len(old) == 2

    def full(*given: object) -> str:
        assert len(list(beside.iterdir())) == 4
        raise UserError("The disk is full.")

    new = store_of(tmp_path / "new", "writes")
    with monkeypatch.context() as patched:
        patched.setattr(page, "render", full)
        with pytest.raises(UserError):
            report.write([new], beside.parent)
    assert {path.name for path in beside.iterdir()} == old
    assert (beside.parent / "index.html").read_bytes() == html
    report.write([store_of(tmp_path / "newer", "reads")], beside.parent)
    assert len(list(beside.iterdir())) == 2
    assert not old & {path.name for path in beside.iterdir()}


def test_a_folder_without_answers_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out(monkeypatch)
    store = store_of(tmp_path / "run", "says")
    with monkeypatch.context() as patched:
        patched.setattr(answers, "EMBEDDED", 0)
        report.write([store], tmp_path / "report")
    assert (tmp_path / "report" / "answers").is_dir()
    report.write([store], tmp_path / "report")
    assert not (tmp_path / "report" / "answers").exists()


def test_manifests_tell_the_rows_of_the_summary(tmp_path: Path) -> None:
    stores = [realistic(tmp_path / name, examples=2) for name in ("a", "b")]
    for some in (stores[:1], stores):
        cells = cells_of(some)
        assert len(cells) > 10
        assert cells.equals(combine(some)[list(cells)])


def test_samples_of_a_run_that_goes_on_are_left_out(tmp_path: Path) -> None:
    store = store_of(tmp_path / "run", "says")
    assert store.length() == 8
    with store.path.open("a", encoding="utf-8") as file:
        file.write('{"task": "ma')  # a record that is being written
    assert store.length() == 8
    assert len(read(store, 3).samples) == 3
    cells = page_samples.samples_of([store], [3])[0]["cells"]
    assert [len(cell["rows"]["scores"]) for cell in cells] == [2, 1]
    assert [len(cell["rows"]["scores"]) for cell in index_and_blocks([store])[0]["cells"]] == [4, 4]
