"""Tasks that read published rows from files of the user: their prompts and scores."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.plugins.data import DataSource
from harness.plugins.registry import TASKS
from harness.plugins.task import Example, Task

OPTIONS = ("ignore", "enforce", "authoritarian", "yell at", "avoid")
QUESTION = {"answerKey": "B", "id": "q1", "question": {
    "question_concept": "x", "stem": 'What to "ignore" do?',
    "choices": [{"label": label, "text": text} for label, text in zip("ABCDE", OPTIONS, strict=True)]}}
LINE = {"file_path": "app/main.py", "context": "# Path: app/pool.py\n# class Pool", "import_statement": "import pool",
        "code": "def start():\n    ", "next_line": "pool = Pool(4)", "repo_name": "x"}


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DECODEBENCH_DATA", raising=False)


def examples(tmp_path: Path, spec: str, file: str, *rows: dict[str, Any]) -> tuple[Task, list[Example]]:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = TASKS.build(spec)
    return task, task.examples(DataSource(tmp_path))


def test_options_come_in_six_orders_without_labels(tmp_path: Path) -> None:
    task, (one,) = examples(tmp_path, "commonsense_qa", "commonsense_qa/dev.jsonl", QUESTION)
    forward = 'Question: What to "ignore" do?\nOptions: "ignore" "enforce" "authoritarian" "yell at" "avoid"\nAnswer:'
    assert task.prompt(one, []) == one.turns[0] == forward
    assert '"avoid" "yell at" "authoritarian" "enforce" "ignore"' in one.turns[1]
    assert len(set(one.turns)) == 6
    for turn in range(6):
        prompt = one.turns[turn]
        spans = task.parts(one, [""] * turn).members
        assert sorted(span.of(prompt) for span in spans) == sorted(f' "{option}"' for option in OPTIONS)
        assert [a.end for a in spans[:-1]] == [b.start for b in spans[1:]], "next to each other"
        assert spans[0].start == prompt.index("Options:") + len("Options:")
    _, (again,) = examples(tmp_path, "commonsense_qa", "commonsense_qa/dev.jsonl", QUESTION)
    assert again.turns == one.turns


def test_an_answer_is_right_with_the_right_option_and_no_other(tmp_path: Path) -> None:
    task, (one,) = examples(tmp_path, "commonsense_qa", "commonsense_qa/dev.jsonl", QUESTION)
    for text, wanted in (("Enforce.", 1), ("to enforce or avoid", 0), ("avoid", 0), ("", 0), ("B", 0)):
        assert task.score(one, [text] * 6)["exact"] == wanted
    found = task.score(one, ["enforce"] * 3 + ["avoid"] * 2 + [""])
    assert found == {"exact": 0.5, "best": 1, "worst": 0, "distinct": 3, "same": 0}
    assert task.expected(one) == "enforce"


def test_an_option_within_the_right_one_is_no_other_option(tmp_path: Path) -> None:
    options = dict(zip("ABCD", ("river bank", "bank", "moon", "sea"), strict=True))
    row = {**QUESTION, "answerKey": "A", "question": {
        "stem": "Where?", "choices": [{"label": label, "text": text} for label, text in options.items()]}}
    task, (one,) = examples(tmp_path, "commonsense_qa", "commonsense_qa/dev.jsonl", row)
    assert task.score(one, ["the River bank"])["exact"] == 1
    assert task.score(one, ["the river bank or another bank"])["exact"] == 0
    assert task.score(one, ["bank"])["exact"] == 0


@pytest.mark.parametrize("change", [
    {"answerKey": "F"}, {"question": "What?"}, {"question": {"stem": "What?", "choices": "x"}}, {"id": 3},
    {"question": {"stem": "What?", "choices": [{"label": "B", "text": "a"}] * 5}}])
def test_a_question_without_what_it_needs_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dev\.jsonl, line 2"):
        examples(tmp_path, "commonsense_qa", "commonsense_qa/dev.jsonl", QUESTION, QUESTION | {"id": "q2"} | change)


def test_code_goes_on_after_the_context_and_the_imports(tmp_path: Path) -> None:
    task, (one,) = examples(tmp_path, "repobench", "repobench/python_cross_file_first.jsonl", LINE)
    assert task.prompt(one, []) == ("# Path: app/pool.py\n# class Pool\n# Path: app/main.py\nimport pool\n\n"
                                    "def start():\n    ")
    assert task.score(one, ["\npool  = Pool(4)\nrun()"])["exact"] == 1
    assert task.score(one, ["pool = Pool(4)\nrun()"]) == {"exact": 1, "similarity": 1}
    assert task.score(one, ["pool = Pool(8)"]) == {"exact": 0, "similarity": 0.93}
    assert task.score(one, ["run()\npool = Pool(4)"])["exact"] == 0
    java, (other,) = examples(tmp_path, "repobench:part=java_in_file", "repobench/java_in_file.jsonl", LINE)
    assert "\n// Path: app/main.py\n" in str(java.prompt(other, []))


def test_a_value_is_asked_for_after_its_document(tmp_path: Path) -> None:
    rows = [{"text": "A form by Bionic Ltd.\nApplicant: ", "key": "Applicant", "value": "Bionic Ltd."},
            {"text": "A form by Bionic Ltd.", "key": "Applicant", "value": "Bionic (Ltd.)"}]
    task, (one, other) = examples(tmp_path, "jrt:part=swde", "jrt/swde.jsonl", *rows)
    assert task.prompt(one, []) == task.prompt(other, []) == "A form by Bionic Ltd.\nApplicant:"
    assert task.score(one, [" the firm bionic ltd. of Bern"])["recall"] == 1
    assert task.score(one, [" Bionic"])["recall"] == 0
    assert task.score(other, [" Bionic Ltd."])["recall"] == 0, "a value is no pattern"
    assert task.stop == ("\n",)
    assert task.max_new_tokens == 48
