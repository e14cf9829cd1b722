"""Every task that reads a file refuses a damaged one with file and line and exit code 2, and leaves nothing behind."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import Result

from harness.plugins.data import LONGEST, DataSource
from harness.plugins.registry import TASKS
from harness.store.folder import Store
from tests import realdata
from tests.pair import saved
from tests.program import call
from tests.scale import scaled

ROOT = Path(__file__).resolve().parents[2]
Row = dict[str, Any]


class Input(NamedTuple):
    """A file that a task reads: the task, the place below the data folder, a good row, and the field that must differ.

    `others` are files that must be there too.
    """

    task: str
    file: str
    row: Callable[[int], Row]
    key: str | None = None
    others: tuple[str, ...] = ()


def code_line(i: int) -> Row:
    return {"file_path": "a.java", "context": "// b", "import_statement": "import b;", "code": "{",
            "next_line": f"{i};"}


def choice(i: int) -> Row:
    return {"id": str(i), "answerKey": "A", "question": {
        "stem": f"{i}?", "choices": [{"label": one, "text": f"{one} {i}"} for one in "ABCDE"]}}


def problem(i: int) -> Row:
    return {"question": f"{i}?", "answer": f"#### {i}"}


def function(i: int) -> Row:
    return {"task_id": f"HumanEval/{i}", "prompt": "def f():\n", "test": "def check(f): pass", "entry_point": "f",
            "canonical_solution": "    pass\n"}


def description(i: int) -> Row:
    return {"task_id": 10 + i, "text": "Double a number.", "code": "def f(x): return 2 * x",
            "test_list": ["assert f(1) == 2"]}


def question(i: int) -> Row:
    return {"question_id": i, "category": "writing", "turns": ["Hello."]}


def output(i: int) -> Row:
    return {"input": f"VAR A = {i}.", "outputs": ["A"]}


def document(i: int) -> Row:
    return {"_id": str(i), "context": "The sky is blue.", "answers": ["blue"]}


def sentence(i: int) -> Row:
    return {"translation": {"en": f"Tom has {i}.", "de": f"Tom hat {i}."}}


def article(i: int) -> Row:
    return {"document": f"Tom has {i}.", "summary": "Tom has some.", "id": str(i)}


def facts(i: int) -> Row:
    return {"mr": f"name[Mill {i}], food[Thai]", "ref": "The Mill is Thai."}


INPUTS = {
    "gsm8k": Input("gsm8k", "gsm8k/test.jsonl", problem),
    "gsm8k_5shot": Input("gsm8k_5shot", "gsm8k/test.jsonl", problem, others=("gsm8k/train.jsonl",)),
    "gsm8k_zeroshot": Input("gsm8k_zeroshot", "gsm8k/test.jsonl", problem),
    "gsm8k_chat": Input("gsm8k_chat", "gsm8k/test.jsonl", problem),
    "humaneval": Input("humaneval", "humaneval/HumanEval.jsonl.gz", function, "task_id"),
    "humaneval_instruct": Input("humaneval_instruct", "humaneval/HumanEval.jsonl.gz", function, "task_id"),
    "humaneval_plus": Input("humaneval_plus", "humaneval_plus/HumanEvalPlus.jsonl.gz", function, "task_id"),
    "mbpp": Input("mbpp", "mbpp/mbpp.jsonl", description, "task_id"),
    "mt_bench": Input("mt_bench", "mt_bench/question.jsonl", question, "question_id"),
    "mt_bench_official": Input("mt_bench_official", "mt_bench/question.jsonl", question, "question_id"),
    "spec_bench": Input("spec_bench", "spec_bench/question.jsonl", question, "question_id"),
    "continuation": Input("continuation:file=my/rows.jsonl,prefix=3,target=2", "my/rows.jsonl",
                          lambda i: {"text": f"Text {i}"}),
    "stream": Input("stream:file=my/rows.jsonl,tokens=3,after=1", "my/rows.jsonl", lambda i: {"text": f"Text {i}"}),
    "task_file": Input("task_file:file=data/my/rows.jsonl", "my/rows.jsonl", lambda i: {"prompt": "?", "answer": i,
                                                                                       "id": str(i)}, "id"),
    "json_file": Input("json_file:file=data/my/rows.jsonl", "my/rows.jsonl", lambda i: {"prompt": "?", "id": str(i)},
                       "id"),
    "ruler": Input("ruler:part=vt,length=64", "ruler/vt_64.jsonl", output),
    "longbench": Input("longbench", "longbench/hotpotqa.jsonl", document, "_id"),
    "repobench": Input("repobench:part=java_in_file", "repobench/java_in_file.jsonl", code_line),
    "jrt": Input("jrt", "jrt/fda.jsonl", lambda i: {"text": f"Form {i}", "key": "Sponsor", "value": str(i)}),
    "commonsense_qa": Input("commonsense_qa", "commonsense_qa/dev.jsonl", choice, "id"),
    "translation": Input("translation", "wmt/test.jsonl", sentence),
    "summarisation": Input("summarisation", "xsum/test.jsonl", article, "id"),
    "e2e": Input("e2e:file=my/rows.jsonl", "my/rows.jsonl", facts),
}
GENERATED = {"passkey"}
READERS = ("gsm8k", "humaneval", "continuation", "task_file")  # plain, gzip, texts, a user's own; the others read alike
FREE = {"task_file": {"prompt", "answer", "id"}, "json_file": {"prompt", "id"}}
"""Fields whose lack or kind is told in the task's own words."""


def line(row: Row) -> bytes:
    return json.dumps(row).encode()


def write(name: str, *lines: bytes) -> Path:
    path = Path("data") / INPUTS[name].file
    path.parent.mkdir(parents=True, exist_ok=True)
    for other in INPUTS[name].others:
        (Path("data") / other).write_bytes(b"\n".join(line(INPUTS[name].row(i)) for i in range(9)))
    raw = b"\n".join(lines) + b"\n"
    path.write_bytes(gzip.compress(raw, 1) if path.suffix == ".gz" else raw)
    return path


def start(name: str, *more: object, model: object = "nano") -> Result:
    return call("run", "-m", model, "-t", INPUTS[name].task, "-s", "greedy", "--data", "data", *more)


def refused(name: str, path: Path, reason: str, number: int | None = None) -> None:
    """Check that a run on the file ends with one sentence and exit code 2, and leaves nothing but the file."""
    before = sorted(Path().rglob("*"))
    done = start(name)
    place = f"{path}, line {number}: " if number else str(path)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith(f"Error: {place}"), done.stderr
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 500
    assert done.stdout == ""
    assert sorted(Path().rglob("*")) == before


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DECODEBENCH_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def test_every_task_that_reads_a_file_is_here() -> None:
    own = {name for name in TASKS.built_in() if not name.startswith("nano_")}
    assert own - GENERATED == set(INPUTS), "add the file of the new task to INPUTS"


@pytest.mark.parametrize("name", [name if name in READERS else pytest.param(name, marks=pytest.mark.slow)
                                  for name in INPUTS])
@pytest.mark.parametrize(("bad", "reason"), [
    (b'{"question":', "this is not JSON"),
    (b"{'question': 1}", "this is not JSON"),
    (b"[" * 100_000, "this is not JSON"),
    (b'{"n": ' + b"9" * 5000 + b"}", "this is not JSON"),
    (b"\x00\x00", "this is not JSON"),
    (b'{"text": "\xff"}', "this is not UTF-8 text"),
    ("{}".encode("utf-16"), "this is not UTF-8 text"),
    (b"[]", "this is not a JSON object"), (b"null", "this is not a JSON object"), (b'"text"', "not a JSON object"),
    (b'{"text": "' + b"a" * LONGEST + b'"}', "this line has more than 16 MiB"),
], ids=["cut", "quotes", "deep", "number", "zeros", "utf-8", "utf-16", "list", "null", "text", "huge"])
def test_lines_that_are_no_rows(name: str, bad: bytes, reason: str) -> None:
    row = INPUTS[name].row
    refused(name, write(name, line(row(1)), b"", bad, line(row(2))), reason, 3)


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, one in INPUTS.items() for field in one.row(1)
                                             if field != "canonical_solution"])
def test_fields_that_are_missing_empty_or_of_another_kind(name: str, field: str) -> None:
    row = INPUTS[name].row
    text = isinstance(row(2)[field], str)
    missing = {key: value for key, value in row(2).items() if key != field}
    own = field in FREE.get(name, ())
    damages: list[tuple[Any, str]] = [({}, f"the field '{field}' must be"), (True, f"the field '{field}' must be")]
    if name not in FREE or field == "prompt":  # a count stands in for an id, and answers may be missing
        damages.append((None, "" if own else f"the field '{field}' must be"))
        refused(name, write(name, line(row(1)), line(missing)), "" if own else f"the field '{field}' is missing", 2)
    if text:
        damages += [(" \n", " empty"), ([], f"the field '{field}' must be"), ("\ud800", f"'{field}' must be")]
    if text and (name, field) != ("task_file", "id"):
        damages.append((7, f"the field '{field}' must be text"))
    if field == "turns":
        damages += [([], "is empty"), ([""], "is empty"), ([1], "a list of texts"), ("a", "a list of texts")]
    if field == "question_id":
        damages += [("1", "a whole number"), (1.5, "a whole number")]
    for value, reason in damages[-scaled(3, 99):]:
        refused(name, write(name, line(row(1)), line({**row(2), field: value})), reason, 2)


@pytest.mark.parametrize("name", [name for name, one in INPUTS.items() if one.key])
def test_a_second_row_of_the_same_id(name: str) -> None:
    row = INPUTS[name].row
    path = write(name, line(row(1)), line(row(2)), b"", line(row(1)))
    refused(name, path, f"the {INPUTS[name].key} {row(1)[INPUTS[name].key or '']!r} was used before, in line 1", 4)


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf"], ids=["empty", "blank", "mark"])
def test_files_without_a_row(name: str, content: bytes) -> None:
    refused(name, write(name, content), "has no rows")


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("damage", ["cut", "text", "inside"])
def test_archives_that_are_broken(name: str, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gzip.compress(b"\n".join(line(INPUTS[name].row(i)) for i in range(100)))
    plain = INPUTS[name].file.removesuffix(".gz")
    monkeypatch.setitem(INPUTS, name, INPUTS[name]._replace(
        file=f"{plain}.gz", task=INPUTS[name].task.replace("rows.jsonl", "rows.jsonl.gz")))
    path = write(name)
    path.write_bytes({"cut": whole[:-20], "text": b"no archive", "inside": whole[:12] + bytes(30) + whole[42:]}[damage])
    refused(name, path, "cannot be read")


@pytest.mark.parametrize(("content", "reason", "number"), [
    (b"good\n\xff\n", "this is not UTF-8 text", 2), (b"good\n\n" + b"a" * (LONGEST + 1), "more than 16 MiB", 3),
    (b"", "has no rows", None), (b" \n\n", "has no rows", None)])
def test_texts_to_go_on_from(content: bytes, reason: str, number: int | None,
                             monkeypatch: pytest.MonkeyPatch) -> None:
    for documents in ("lines", "blocks"):
        one = Input(f"continuation:file=my/text.txt,documents={documents}", "my/text.txt", lambda i: {})
        monkeypatch.setitem(INPUTS, "continuation", one)
        path = write("continuation")
        path.write_bytes(content)
        refused("continuation", path, reason, number)


@pytest.mark.parametrize("name", INPUTS)
def test_good_rows_run(name: str) -> None:
    row = INPUTS[name].row
    write(name, b"\xef\xbb\xbf" + line(row(1)) + b"\r", b"", line({**row(2), "more": [1]}))
    done = start(name, "--max-new-tokens", 1, "-o", "run", "--truncate-prompts", "--no-texts", model=saved("llama"))
    assert done.exit_code == 0, done.output
    assert len(list(Store.open(Path("run")).records())) == 2


@realdata.needs_real_data
@pytest.mark.parametrize("name", ["gsm8k", "humaneval", "mt_bench", "spec_bench"])
def test_damage_in_the_real_file_is_found_where_it_is(name: str) -> None:
    folder = realdata.folder()
    assert folder is not None
    source = folder / INPUTS[name].file
    raw = source.read_bytes()
    lines = (gzip.decompress(raw) if source.suffix == ".gz" else raw).splitlines()
    number = len(lines) * 2 // 3
    for damaged, reason in ((lines[number - 1][:-9], "not JSON"), (lines[number - 1] + b"\xc3", "not UTF-8")):
        refused(name, write(name, *lines[:number - 1], damaged, *lines[number:]), reason, number)
    assert len(TASKS.build(name).examples(DataSource(folder))) == len(lines)
