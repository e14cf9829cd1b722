"""A task from a user's file: how it is asked, the checkers, the header, what is refused, and one run."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import Result

from harness.errors import UserError
from harness.plugins.data import DataSource
from harness.plugins.registry import TASKS
from harness.plugins.task import Example, Task
from harness.plugins.task_file import number
from harness.scoring.answers import CheckedAnswer, final_answer, fits, program
from harness.store.folder import Store
from tests.pair import saved
from tests.program import call

PROMPT = {"prompt": "1 + 1 =", "answer": 2}
TESTS = "assert double(2) == 4\nassert double(-1) == -2"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DECODEBENCH_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


def made(*rows: dict[str, Any], knobs: str = "") -> Task:
    Path("my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return TASKS.build(f"task_file:file=my.jsonl{knobs}")


def only(*rows: dict[str, Any]) -> tuple[Task, Example]:
    task = made(*rows)
    (example,) = task.examples(DataSource())
    return task, example


def test_a_prompt_is_raw_text() -> None:
    task, example = only({"prompt": " Go on: ", "answer": "x", "other": 1, "category": "c", "reference": "r"})
    assert task.prompt(example, []) == " Go on: "
    assert (example.id, example.category, example.reference) == ("my/1", "c", "r")
    assert not task.chat


def test_a_question_is_a_users_turn() -> None:
    task, example = only({"question": "Who?"})
    assert task.chat
    assert task.prompt(example, []) == [{"role": "user", "content": "Who?"}]
    task, example = only({"prompt": "Question: Who?\nAnswer:", "question": "Who?"})
    assert task.prompt(example, []) == "Question: Who?\nAnswer:"


def test_rows_without_an_answer_are_not_scored() -> None:
    task = made({"prompt": "a"}, {"question": "b", "answer": None, "id": None, "checker": None})
    assert [one.gold["checker"] for one in task.examples(DataSource())] == ["none", "none"]
    assert (task.unscored, task.metric()) == ("no answers", None)
    source = DataSource()
    assert [one.gold["checker"] for one in made(PROMPT, {"question": "b"}).examples(source)] == ["exact", "none"]
    assert source.warnings == ["my.jsonl: 1 of 2 rows have no score, because they have no answer or the checker none."]
    for asked in ({"prompt": "?", "checker": "number"}, {"prompt": "?"}):
        with pytest.raises(UserError, match=r"line 1: the checker 'number' needs an 'answer' that is not empty; give"):
            made(asked, knobs=",checker=number" if "checker" not in asked else "")
    with pytest.raises(UserError, match="line 2: the checker 'contains' needs an 'answer'"):
        made({"task": {"checker": "contains"}}, {"prompt": "?"})


QUESTIONS = [{"question": "What is 1 + 1, please?", "answer": "2", "id": "sum"}, {"question": "Who\nis it?"}]


def as_csv(path: Path) -> None:
    path.write_bytes(b'\xef\xbb\xbfid,question,answer\r\nsum,"What is 1 + 1, please?",2\r\n,"Who\r\nis it?",\r\n')


def as_parquet(path: Path) -> None:
    pd.DataFrame(QUESTIONS).to_parquet(path)


def as_packed_csv(path: Path) -> None:
    as_csv(path)
    path.write_bytes(gzip.compress(path.read_bytes()))


@pytest.mark.parametrize(("name", "write"), [("my.csv", as_csv), ("my.csv.gz", as_packed_csv),
                                             ("my.parquet", as_parquet)])
def test_tables_are_rows(name: str, write: Callable[[Path], None]) -> None:
    write(Path(name))
    task = TASKS.build(f"task_file:file={name}")
    examples = task.examples(DataSource())
    assert [(one.id, one.turns, one.gold["answer"], one.gold["checker"]) for one in examples] == [
        ("my/sum", ("What is 1 + 1, please?",), ["2"], "exact"), ("my/2", ("Who\nis it?",), [], "none")]
    assert task.chat


@pytest.mark.parametrize("name", ["my.txt", "my.md", "my.text", "my", "my.prompts"])
def test_each_line_of_a_text_is_a_question(name: str) -> None:
    Path(name).write_text("\nWho is it?\n\n  {odd}, isn't it?\n", encoding="utf-8")
    task = TASKS.build(f"task_file:file={name}")
    assert [(one.id, one.turns) for one in task.examples(DataSource())] == [
        ("my/1", ("Who is it?",)), ("my/2", ("{odd}, isn't it?",))]
    assert (task.chat, task.unscored) == (True, "no answers")


def test_rows_in_a_file_with_another_suffix() -> None:
    Path("my.data").write_text(f"\n{json.dumps(PROMPT)}\n", encoding="utf-8")
    assert [one.gold["answer"] for one in TASKS.build("task_file:file=my.data").examples(DataSource())] == [["2"]]


@pytest.mark.parametrize(("name", "content", "words"), [
    ("my.csv", b"question,answer\nWho, me?,x\n", "my.csv, line 2: this row has more cells than the first line has "),
    ("my.csv", b"query\nWho?\n", "my.csv, line 2: give one of 'question', 'prompt', 'turns' and 'messages'"),
    ("my.csv", b'question\n"Who\n', "my.csv, line 2: this is not CSV"),
    ("my.csv", b"question\n\xff\n", "my.csv, line 2: this is not UTF-8 text"),
    ("my.csv", b"question\n", "my.csv has no rows"), ("my.csv", b"", "my.csv has no rows"),
    ("my.parquet", b"question\nWho?\n", "my.parquet cannot be read as Parquet: "),
    ("my.jsonl", b"Who?\n", "my.jsonl, line 1: this is not JSON"),
    ("my.txt", b"\n\n", "my.txt has no rows"),
])
def test_broken_tables_and_texts_are_one_sentence(name: str, content: bytes, words: str) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        TASKS.build(f"task_file:file={name}")
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def test_turns_are_a_chat_with_the_models_own_answers() -> None:
    task, example = only({"turns": ["Hello.", "Again."], "answer": "x", "id": "greeting"})
    assert task.chat
    assert example.id == "my/greeting"
    assert example.turns == ("Hello.", "Again.")
    assert task.prompt(example, ["Hi."]) == [
        {"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Again."}]


def test_messages_are_a_chat_so_far() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello."}]
    task, example = only({"messages": messages, "answer": "x"})
    assert task.chat
    assert len(example.turns) == 1
    assert task.prompt(example, []) == messages


def test_the_model_writes_the_assistants_last_messages_anew() -> None:
    asked = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi."},
             {"role": "user", "content": "Again."}]
    written = [{"role": "assistant", "content": "Hi"}, {"role": "assistant", "content": "again."}]
    task, example = only({"messages": asked + written})
    assert task.prompt(example, []) == asked
    assert (example.turns, example.reference) == (("Again.",), "Hi\nagain.")
    assert only({"messages": asked + written, "reference": "Bye."})[1].reference == "Bye."
    assert only({"messages": asked})[1].reference == ""


def test_a_chat_may_end_in_any_role() -> None:
    messages = [{"role": "user", "content": "Hello."}, {"role": "system", "content": "Be brief."}]
    task, example = only({"messages": messages})
    assert task.prompt(example, []) == messages


@pytest.mark.parametrize(("checker", "answer", "right", "wrong"), [
    ("exact", "Paris", ["Paris", " Paris\n"], ["paris", "Paris.", ""]),
    ("exact", ["Paris", "paris"], ["Paris", "paris"], ["PARIS"]),
    ("exact", 2, ["2"], ["2.0"]),
    ("contains", "Paris", ["It is Paris.", "Paris"], ["It is paris.", ""]),
    ("contains", [" a ", "b"], ["is a one", "b"], ["a"]),
    ("regex", r"^(yes|no)\b", ["yes, of course", "no"], ["Yes", "well, no"]),
    ("number", 1200, ["$1,200", "1 then 1200.0", "so 1.2e3.", "1200kg"], ["1200 or 1201", "no", "1e9999999999"]),
    ("number", "-0.5", ["it is -.5", "−0.50"], ["0.5", "3-0.5"]),
    ("number", ["1,000", 7], ["1000", "7"], ["8"]),
    ("number", 9500, ["It costs $9{,}500.", "9,500", "$9{,}500.00"], ["9,50", "9,5000"]),
    ("number", 4, ["3,4", "2,3,4.", "(3,4)"], ["34", "3,400"]),
    ("number", 567, ["1234,567"], ["1,234,567"]),
    ("number", "1,234,567", ["1{,}234{,}567", "1234567"], ["1,234", "1,2345,67"]),
    ("choice", "B", ["B", "(B)", "B) Paris", "The answer is B.", "I'd say B.", "**Answer:** (B)", "A or C?\nB."],
     ["A", "b", "Because", "The answer is C, not B", "", "BB"]),
    ("choice", "A", ["A", "I choose A", "I think A is right", "A. Paris"], ["A man walked in.", "I", "(I)"]),
])
def test_checkers(checker: str, answer: Any, right: list[str], wrong: list[str]) -> None:
    task, example = only({"prompt": "?", "checker": checker, "answer": answer})
    assert {text: task.score(example, [text]) for text in right + wrong} == {
        **{text: {"correct": 1.0} for text in right}, **{text: {"correct": 0.0} for text in wrong}}


def test_the_last_answer_is_checked() -> None:
    task, example = only({"turns": ["a", "b"], "answer": "2"})
    assert task.score(example, ["1", "2"]) == {"correct": 1.0}
    assert task.score(example, ["2", "1"]) == {"correct": 0.0}


def test_code_after_a_prompt() -> None:
    task, example = only({"prompt": "def double(n):\n", "checker": "code", "answer": TESTS, "entry_point": "double"})
    assert task.executes_code
    assert task.score(example, ["    return 2 * n\n"]) == {"correct": 1.0, "timeout": 0.0}
    assert task.score(example, ["    return n * n\n"])["correct"] == 0.0
    assert task.score(example, ["    while True: pass\n"]) == {"correct": 0.0, "timeout": 1.0}


def test_code_in_a_chat_is_the_last_fenced_block() -> None:
    task, example = only({"turns": ["Write double."], "checker": "code", "answer": TESTS, "entry_point": "double"})
    good, bad = "def double(n):\n    return 2 * n\n", "def double(n):\n    return n\n"
    for text, score in ((good, 1.0), (f"First:\n```\n{bad}```\nNo:\n```python\n{good}```\nDone.", 1.0),
                        (f"```python\n{good}```\nor\n```python\n{bad}```", 0.0), (f"Sure.\n```python\n{good}", 1.0)):
        assert task.score(example, [text])["correct"] == score, text
    assert program("no fence") == "no fence"


def test_tests_in_the_format_of_humaneval() -> None:
    tests = "def check(candidate):\n    assert candidate(3) == 6\n"
    task, example = only({"prompt": "def double(n):\n", "checker": "code", "answer": tests, "entry_point": "double"})
    assert task.score(example, ["    return 2 * n\n"])["correct"] == 1.0
    assert task.score(example, ["    return 2\n"])["correct"] == 0.0


def test_none_is_not_scored() -> None:
    task = made({"prompt": "?", "checker": "none"}, PROMPT | {"checker": "number"})
    unscored, scored = task.examples(DataSource())
    assert task.unscored is None
    assert task.score(unscored, ["2"]) == {}
    assert task.score(scored, ["2"]) == {"correct": 1.0}
    task = made(PROMPT | {"checker": "none"})
    assert (task.unscored, task.metric()) == ("no checker", None)


def test_commas_group_by_three() -> None:
    assert number("1,234{,}567.50") == number("1234567.5")
    for text in ("3,4", "1,2345", ",500", "12,34,567", "1234,567", "0.123,456"):
        with pytest.raises(ArithmeticError):
            number(text)


def test_votes_are_what_is_checked() -> None:
    assert final_answer("number", "so 3, or 4.0") == "4"
    assert final_answer("choice", "It is (C).") == "C"
    assert final_answer("exact", " a b ") == "a b"
    assert final_answer("number", "none") is final_answer("exact", " ") is None
    task, example = only(PROMPT | {"checker": "number"})
    assert task.answer(example, "It is 2.0") == "2"


def test_a_pattern_that_takes_for_ever_fails_and_does_not_hang() -> None:
    with pytest.raises(TimeoutError):
        fits("regex", "a" * 40 + "!", r"^(a|aa)+$")


def test_checkers_of_row_header_and_knob() -> None:
    def checkers(task: Task) -> list[str]:
        return [one.gold["checker"] for one in task.examples(DataSource())]
    rows = [PROMPT, PROMPT | {"checker": "contains"}]
    assert checkers(made(*rows)) == ["exact", "contains"]
    assert checkers(made(*rows, knobs=",checker=number")) == ["number", "contains"]
    header = {"task": {"checker": "none"}}
    assert checkers(made(header, *rows)) == ["none", "contains"]
    assert made(header, *rows).spec() == "task_file:file=my.jsonl"
    task = made(header, *rows, knobs=",checker=number")
    assert checkers(task) == ["number", "contains"]
    assert task.spec() == "task_file:file=my.jsonl,checker=number"
    assert TASKS.build(task.spec()) == task


def test_the_header_says_how_the_task_is_run() -> None:
    header = {"max_new_tokens": 7, "stop": ["\n", "Q:"], "open_ended": True, "sub_tasks": True}
    task = made({"task": header}, PROMPT)
    assert (task.max_new_tokens, task.stop, task.open_ended, task.sub_tasks) == (7, ("\n", "Q:"), True, {})
    assert [one.id for one in task.examples(DataSource())] == ["my/1"]
    plain = made(PROMPT)
    assert (plain.max_new_tokens, plain.stop, plain.open_ended) == (256, (), False)


@pytest.mark.parametrize(("row", "reason"), [
    ({"answer": "x"}, "give one of 'question', 'prompt', 'turns' and 'messages'"),
    ({"prompt": "?", "turns": ["?"], "answer": "x"}, "give one of 'question', 'prompt', 'turns' and 'messages', not p"),
    ({"question": " ", "answer": "x"}, "the field 'question' is empty"),
    ({"question": ["?"], "answer": "x"}, "the field 'question' must be text"),
    ({"prompt": " ", "answer": "x"}, "the field 'prompt' is empty"),
    ({"prompt": 1, "answer": "x"}, "the field 'prompt' must be text"),
    ({"turns": [], "answer": "x"}, "the field 'turns' is empty"),
    ({"turns": ["a", ""], "answer": "x"}, "the field 'turns' is empty"),
    ({"messages": [], "answer": "x"}, "the field 'messages' is empty"),
    ({"messages": [{"role": "assistant", "content": "a"}], "answer": "x"},
     "all messages are the assistant's, which the model writes: add the user's"),
    ({"messages": [{"role": "robot", "content": "a"}], "answer": "x"}, "every message must have a 'role'"),
    ({"messages": [{"role": "user"}], "answer": "x"}, "every message must have a 'role'"),
    ({"prompt": "?", "answer": []}, "the checker 'exact' needs an 'answer' that is not empty"),
    ({"prompt": "?", "answer": [""]}, "the checker 'exact' needs an 'answer' that is not empty"),
    ({"prompt": "?", "answer": {}}, "the field 'answer' must be a text, a number, or a list of these"),
    ({"prompt": "?", "answer": True}, "the field 'answer' must be a text, a number, or a list of these"),
    ({"prompt": "?", "answer": "x", "checker": "exakt"}, "there is no checker 'exakt', only exact, contains"),
    ({"prompt": "?", "answer": "(", "checker": "regex"}, "the answer is not a valid pattern"),
    ({"prompt": "?", "answer": "two", "checker": "number"}, "the answer 'two' is not a number"),
    ({"prompt": "?", "answer": float("nan"), "checker": "number"}, "the answer 'nan' is not a number"),
    ({"prompt": "?", "answer": "Paris", "checker": "choice"}, "the answer 'Paris' is not one capital letter"),
    ({"prompt": "?", "answer": "assert", "checker": "code", "entry_point": "f"}, "the answer is not valid Python"),
    ({"prompt": "?", "answer": "assert f()", "checker": "code"}, "the checker 'code' needs an 'entry_point'"),
    ({"prompt": "?", "answer": "x", "id": "1"}, "the id '1' was used before, in line 1"),
    ({"prompt": "?", "answer": "x", "id": []}, "the field 'id' must be text"),
    ({"task": {"checker": "none"}}, "give one of 'question', 'prompt', 'turns' and 'messages'"),
])
def test_bad_rows_are_named_with_the_line(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError) as caught:
        made(PROMPT, row)
    assert str(caught.value).startswith(f"my.jsonl, line 2: {reason}")


@pytest.mark.parametrize(("header", "reason"), [
    ({"cheker": "none"}, "there is no setting 'cheker'. Did you mean 'checker'?"),
    ({"checker": "exakt"}, "there is no checker 'exakt'"),
    ({"max_new_tokens": 0}, "'max_new_tokens' must be at least 1, not 0."),
    ({"max_new_tokens": "9"}, "the field 'max_new_tokens' must be a whole number."),
    ({"stop": "Q:"}, "the field 'stop' must be a list of texts."), ({"stop": [""]}, "a stop string is empty."),
    ({"open_ended": 1}, "the field 'open_ended' must be true or false."),
    ([], "the field 'task' must be an object of settings."),
])
def test_bad_headers_are_named_with_the_line(header: Any, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        made({"task": header}, PROMPT)
    assert str(caught.value).startswith(f"my.jsonl, line 1: {reason}")


def test_files_without_rows() -> None:
    for rows in ([], [{"task": {}}]):
        with pytest.raises(UserError, match=r"my\.jsonl has no rows"):
            made(*rows)
    with pytest.raises(UserError, match="task_file needs a file: --task-file"):
        TASKS.build("task_file").examples(DataSource())


def start(*more: object) -> Result:
    return call("run", "-m", saved("llama"), "-s", "top_p", "--threads", 1, "--device", "cpu", "-o", "run", *more)


def test_a_run_and_what_it_notices() -> None:
    rows = [{"task": {"max_new_tokens": 4}}, PROMPT, {"turns": ["a", "b"], "answer": "x"}]
    made(PROMPT)
    Path("my.jsonl").rename("other.jsonl")
    files = ("--task-file", "my.jsonl", "--task-file", "other.jsonl", "--limit", 2)
    made(*rows)
    done = start(*files)
    assert done.exit_code == 0, done.output
    store = Store.open(Path("run"))
    assert [task.data for task in store.manifest.tasks] == ["my.jsonl, checker exact", "other.jsonl, checker exact"]
    records = [record for record in store.records() if record.example.startswith("my/")]
    assert sorted(len(record.turns) for record in records) == [1, 1, 2, 2]
    assert all(set(record.scores) == {"correct"} for record in records)
    assert all(len(turn.tokens) <= 4 for record in records for turn in record.turns)
    for changed in ([{"task": {"max_new_tokens": 4, "stop": ["z"]}}, *rows[1:]], [rows[0], PROMPT | {"answer": 3}]):
        made(*changed)
        again = start(*files)
        assert (again.exit_code, again.stderr.startswith("Error: run holds another run")) == (2, True)
    made(*rows)
    assert start(*files).exit_code == 0


def test_raw_text_for_a_model_with_a_chat_template_is_noticed() -> None:
    made({"prompt": "Once"}, {"question": "Who?"})
    done = call("run", "-m", "nano", "-s", "greedy", "--task-file", "my.jsonl", "--max-new-tokens", 1, "-o", "run")
    assert done.exit_code == 0, done.output
    words = "my.jsonl: 1 of 2 rows are a 'prompt', raw text that nano continues without its chat template; call the " \
        "field 'question' to ask in the template."
    assert words in " ".join(done.stdout.split())
    assert Store.open(Path("run")).manifest.warnings == [words]
    made({"question": "Who?"})
    done = call("run", "-m", "nano", "-s", "greedy", "--task-file", "my.jsonl", "--max-new-tokens", 1, "-o", "other")
    assert Store.open(Path("other")).manifest.warnings == []


@pytest.mark.parametrize(("file", "words"), [
    ("absent.jsonl", "absent.jsonl cannot be read"),
    ("a,b.jsonl", "The file name a,b.jsonl must not contain a comma or a plus sign"),
    ("a+b", "The file name a+b must not contain a comma or a plus sign"), (".", ". cannot be read"),
])
def test_files_that_cannot_be_a_task(file: str, words: str) -> None:
    done = start("--task-file", file)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"Error: {words}")
    assert done.stderr.count("\n") == 1
    assert not list(Path().iterdir())


def test_the_metric_works_by_itself() -> None:
    gold = [{"checker": "exact", "answer": ["a"]}, {"checker": "none", "answer": []}, {"checker": "exact",
                                                                                      "answer": ["b"]}]
    assert CheckedAnswer().compute(predictions=[["a"], ["x"], ["x"]], references=gold) == {"correct": 0.5}
