"""The rows of a data set: where they are looked for, and what is said about bad ones."""

import gzip
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import UserError
from harness.plugins.data import LONGEST, TEXTS, DataSource, Download, Hub, Row, digest, read_lines

FIELDS = {"id": str, "text": str}
ROWS = [{"id": "a", "text": "one"}, {"id": "b", "text": "zwei \u2028 zwei"}]
HUB = Hub("owner/set", "main", "test", "0123abc", digest(ROWS))


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DECODEBENCH_DATA", raising=False)


def write(folder: Path, content: bytes, file: str = "test.jsonl") -> Path:
    path = folder / "set" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def jsonl(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def read(source: DataSource, hub: Hub = HUB) -> list[Row]:
    return source.rows("set", "test.jsonl", hub, FIELDS, key="id")


def fake_hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[Any]:
    calls: list[Any] = []

    def load_dataset(*args: Any, **options: Any) -> Any:
        calls.append((args, options))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return calls


@pytest.mark.parametrize("content", [
    jsonl(ROWS),
    jsonl(ROWS).replace(b"\n", b"\r\n"),
    b"\xef\xbb\xbf" + jsonl(ROWS) + b"\n\n",
    jsonl([{**row, "unused": 1} for row in ROWS]),
])
def test_reads_used_fields_of_published_rows(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path, content)
    source = DataSource(tmp_path)
    assert read(source) == ROWS
    assert source.origins == {"set": str(path)}
    assert source.warnings == []


@pytest.mark.parametrize(("asked", "there"), [("test.jsonl.gz",) * 2, ("test.jsonl", "test.jsonl.gz")])
def test_reads_gzip(tmp_path: Path, asked: str, there: str) -> None:
    write(tmp_path, gzip.compress(jsonl(ROWS)), there)
    assert DataSource(tmp_path).rows("set", asked, HUB, FIELDS) == ROWS


def test_a_plain_file_stands_in_for_a_gzipped_one(tmp_path: Path) -> None:
    write(tmp_path, jsonl(ROWS))
    assert DataSource(tmp_path).rows("set", "test.jsonl.gz", HUB, FIELDS) == ROWS


def test_other_rows_are_a_warning(tmp_path: Path) -> None:
    write(tmp_path, jsonl(ROWS[:1]))
    source = DataSource(tmp_path)
    assert read(source) == ROWS[:1]
    assert len(source.warnings) == 1
    assert "differ from the published ones" in source.warnings[0]


def test_order_of_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, variable = tmp_path / "given", tmp_path / "variable"
    given.mkdir()
    write(variable, jsonl(ROWS[:1]))
    calls = fake_hub(monkeypatch, ROWS)
    monkeypatch.setenv("DECODEBENCH_DATA", str(variable))
    assert read(DataSource(given)) == ROWS[:1]  # the folder given lacks the file
    write(given, jsonl(ROWS))
    assert read(DataSource(given)) == ROWS
    assert calls == []
    monkeypatch.delenv("DECODEBENCH_DATA")
    source = DataSource(variable / "set")
    assert read(source) == ROWS
    assert calls == [(("owner/set", "main"), {"split": "test", "revision": "0123abc"})]
    assert source.origins == {"set": "owner/set at 0123abc"}
    assert source.warnings == []


def test_rows_of_the_hub_are_adapted(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, [{"name": "one"}])
    hub = Hub("owner/set", None, "train", "0123abc", None, lambda index, row: {"id": str(index), "text": row["name"]})
    assert read(DataSource(), hub) == [{"id": "0", "text": "one"}]


def test_a_bad_row_of_the_hub_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, [ROWS[0], {"id": "b"}])
    with pytest.raises(UserError, match="owner/set at 0123abc, row 2: the field 'text' is missing"):
        read(DataSource())


@pytest.mark.parametrize("error", [ConnectionError("Couldn't reach 'owner/set' on the Hub\nmore"), OSError()])
def test_a_hub_out_of_reach_is_one_sentence(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    fake_hub(monkeypatch, error)
    with pytest.raises(UserError, match=r"owner/set.*give --data DIR with the file DIR/set/test\.jsonl\.$") as caught:
        read(DataSource())
    assert "\n" not in str(caught.value)


def test_a_folder_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="does not exist"):
        DataSource(tmp_path / "absent")
    monkeypatch.setenv("DECODEBENCH_DATA", str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"\$DECODEBENCH_DATA"):
        DataSource()


@pytest.mark.parametrize(("content", "reason"), [
    (b'{"id": "a", "text": "one"}\n{"id":\n', "line 2: this is not JSON"),
    (b"[" * 100_000, "line 1: this is not JSON"),
    (b'{"id": "a", "text": "\xff"}\n', "line 1: this is not UTF-8 text"),
    (b"\n[1]\n", "line 2: this is not a JSON object"),
    (b'{"id": "a"}', "line 1: the field 'text' is missing"),
    (b'{"id": "a", "text": 1}', "line 1: the field 'text' must be text"),
    (b'{"id": "a", "text": "\\ud800"}', "line 1: the field 'text' must be text"),
    (jsonl([ROWS[0], ROWS[1], ROWS[0]]), "line 3: the id 'a' was used before, in line 1"),
    (b'{"id": "a", "text": " "}', "line 1: the field 'text' is empty"),
    (jsonl(ROWS) + b'{"id": "' + b"a" * LONGEST + b'"}', "line 3: this line has more than 16 MiB"),
    (b"", "has no rows"),
    (b"\n\n", "has no rows"),
])
def test_bad_files_are_named_with_the_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(UserError) as caught:
        read(DataSource(tmp_path))
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize("content", [b"not gzip", gzip.compress(jsonl(ROWS), mtime=0)[:-9]], ids=["text", "cut"])
def test_broken_gzip(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, content, "test.jsonl.gz")
    with pytest.raises(UserError, match="cannot be read"):
        read(DataSource(tmp_path))


@pytest.mark.parametrize(("kind", "good", "bad"), [
    (int, 1, True), (int, -3, 1.0), (list[str], ["a", "b"], [1]), (list[str], ["a", "b"], "ab"), (str, "a", None),
    (TEXTS, [["a"], ["b", "c"]], ["a", ["b"]]),
])
def test_types_of_fields(tmp_path: Path, kind: type, good: Any, bad: Any) -> None:
    write(tmp_path, jsonl([{"value": good}]))
    assert DataSource(tmp_path).rows("set", "test.jsonl", HUB, {"value": kind}) == [{"value": good}]
    write(tmp_path, jsonl([{"value": bad}]))
    with pytest.raises(UserError, match="line 1: the field 'value' must be"):
        DataSource(tmp_path).rows("set", "test.jsonl", HUB, {"value": kind})


def test_a_check_of_the_task_is_reported_with_the_line(tmp_path: Path) -> None:
    write(tmp_path, jsonl(ROWS))
    with pytest.raises(UserError, match="line 2: too long"):
        DataSource(tmp_path).rows("set", "test.jsonl", HUB, FIELDS,
                                  check=lambda row: "too long" if len(row["text"]) > 3 else None)


def test_optional_fields_are_kept_where_they_are_given(tmp_path: Path) -> None:
    rows = [{"id": "a"}, {"id": "b", "note": ""}, {"id": "c", "note": None}, {"id": "d", "note": 1}]
    write(tmp_path, jsonl(rows[:3]))

    def found() -> list[Row]:
        return DataSource(tmp_path).rows("set", "test.jsonl", HUB, {"id": str}, optional={"note": str})
    assert found() == [{"id": "a"}, {"id": "b", "note": ""}, {"id": "c"}]
    write(tmp_path, jsonl(rows))
    with pytest.raises(UserError, match="line 4: the field 'note' must be text"):
        found()


def test_empty_items_of_lists(tmp_path: Path) -> None:
    for value in ([], [""], ["a", " "]):
        write(tmp_path, jsonl([{"value": value}]))
        with pytest.raises(UserError, match="line 1: the field 'value' is empty"):
            DataSource(tmp_path).rows("set", "test.jsonl", HUB, {"value": list[str]})


def test_what_no_hub_has_is_downloaded_by_the_user(tmp_path: Path) -> None:
    home = Download("https://example.org/rows.jsonl", digest(ROWS))
    with pytest.raises(UserError, match=r"download https://example\.org/rows\.jsonl as DIR/set/test\.jsonl"):
        DataSource(tmp_path).rows("set", "test.jsonl", home, FIELDS)
    write(tmp_path, jsonl(ROWS))
    source = DataSource(tmp_path)
    assert source.rows("set", "test.jsonl", home, FIELDS) == ROWS
    assert source.warnings == []


def test_what_the_user_must_bring(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"give --data DIR with the file DIR/set/test\.jsonl"):
        DataSource(tmp_path).rows("set", "test.jsonl", None, FIELDS)
    path = write(tmp_path, jsonl([{"name": "a", "text": "one"}, {"name": 1, "text": "two"}]))
    source = DataSource(tmp_path)
    with pytest.raises(UserError, match=f"{path}, line 2: the field 'id' must be text"):
        source.rows("set", "test.jsonl", None, FIELDS, fill=lambda row: {"id": row["name"], **row})
    write(tmp_path, jsonl([{"name": "a", "text": "one"}]))
    assert source.rows("set", "test.jsonl", None, FIELDS, fill=lambda row: {"id": row["name"], **row}) == ROWS[:1]
    assert source.warnings == []


def test_a_file_of_the_users_is_found_as_named_or_below_the_data_folder(tmp_path: Path,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    below = write(data, b"x")
    monkeypatch.chdir(tmp_path)
    asked = Path("set/test.jsonl")
    with pytest.raises(UserError, match=r"There is no file set/test\.jsonl"):
        DataSource().file(asked)
    assert DataSource(data).file(asked) == below
    write(tmp_path, b"y")
    assert DataSource(data).file(asked) == asked


def test_lines_of_a_text(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\n \xe2\x80\xa8two\x0c\nlast")
    assert list(read_lines(path)) == [(1, "one"), (2, ""), (3, " \u2028two\x0c"), (4, "last")]
    path.write_bytes(b"good\n\xff\n")
    with pytest.raises(UserError, match=r"text\.txt, line 2: this is not UTF-8 text\."):
        list(read_lines(path))
