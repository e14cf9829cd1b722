"""Run folders: what may lie in them, and records that are read in parts."""

from pathlib import Path

import pytest

from harness.errors import UserError
from harness.store.folder import Store
from tests.runs import manifest, record, strategy, task, turn, write

MANIFEST = manifest([strategy("greedy")], [task("math")])
RECORDS = [record("math", "1", "greedy", [turn([1], [1.0])], sample=sample) for sample in range(3)] + \
    [record("math", "2", "greedy", error="ValueError: no")]


def test_finished_samples_are_counted_without_their_answers(tmp_path: Path) -> None:
    store = write(tmp_path, MANIFEST, RECORDS)
    assert store.finished() == ({one.key for one in RECORDS}, 1)
    keys = sorted(store.finished()[0])
    assert len({id(name) for key in keys for name in key[:3]}) == 4, "equal names are one object"


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    store = write(tmp_path, MANIFEST, RECORDS)
    with store.path.open("a") as file:
        file.write('{"task": "math"}\n')
    for read in (store.finished, lambda: list(store.records())):
        with pytest.raises(UserError, match=r"0000.jsonl, line 5: not a record \(example: Field required\)"):
            read()


def test_a_start_that_was_killed_before_its_manifest_begins_again(tmp_path: Path) -> None:
    for name in ("run.lock", "run.lock.json", "manifest.json.123.part"):
        (tmp_path / name).write_text("")
    with Store.begin(tmp_path, MANIFEST) as store:
        assert store.manifest == MANIFEST


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="is not a run of decodebench"), Store.begin(tmp_path, MANIFEST):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
