"""Tasks about long texts: hidden values at their places and lengths, and the rows and scores of RULER and LongBench."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from harness.errors import UserError
from harness.nano import weights
from harness.nano.hidden_values import AT_ONE_PLACE, KINDS, drawn, places
from harness.plugins.data import DataSource
from harness.plugins.registry import TASKS
from harness.plugins.task import Example, Task
from harness.scoring.long_texts import (
    Contains,
    class_score,
    common_subsequence,
    line_similarity,
    rouge_l,
    share_of_numbers,
    word_f1,
)


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DECODEBENCH_DATA", raising=False)


@pytest.fixture(scope="module")
def nano() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(weights("nano"))


def passkey(knobs: str) -> tuple[Task, list[Example]]:
    task = TASKS.build(f"passkey:{knobs}")
    return task, task.examples(DataSource())


@pytest.mark.parametrize("noise", ["varied", "repeated"])
@pytest.mark.parametrize("kind", KINDS)
def test_hidden_values_are_all_that_is_asked_for(kind: str, noise: str) -> None:
    task, found = passkey(f"kind={kind},unit=words,length=300,depths=3,each=4,noise={noise}")
    assert len({one.turns for one in found}) == len({one.id for one in found}) == 12
    for number, one in enumerate(found):
        prompt, values = task.prompt(one, []), one.gold["values"]
        assert isinstance(prompt, str)
        assert 270 < len(prompt.split()) <= 300
        text, _, question = prompt.removesuffix(one.gold["start"]).rpartition("\n")
        assert len(values) == {"multivalue": 4, "multiquery": 4, "tracking": 5}.get(kind, 1)
        assert len(set(values)) == len(values)
        hidden = re.findall(r"VAR (\w+) = ([\w ]+)\.", text) if kind == "tracking" else \
            re.findall(r"(?:secret number of|pass) ([\w-]+) is (\d+)", text)
        if kind == "tracking":
            assert [name for name, _ in hidden] == values
            assert [before for _, before in hidden] == [hidden[0][1], *(f"VAR {name}" for name in values[:-1])]
            assert hidden[0][1] in question
        else:
            assert sorted(value for key, value in hidden if key in question) == sorted(values)
            assert len(hidden) == (4 if kind.startswith("multi") else 1)
        assert task.score(one, [f" {', '.join(values)}."]) == {"recall": 1, "all": 1}
        assert task.score(one, [f" {', '.join(found[number - 1].gold['values'])}."])["recall"] == 0
        assert task.expected(one) == "\n".join(values)


def test_the_asked_needle_lies_at_each_depth() -> None:
    for kind in AT_ONE_PLACE:
        for number, one in enumerate(passkey(f"kind={kind},unit=words,length=400,depths=5,each=2")[1]):
            _, text, _ = one.turns[0].split("\n")
            depth, place = number % 5 / 4, text.index(one.gold["values"][0]) / len(text)
            assert one.gold["depth"] == depth
            assert place == pytest.approx(depth, abs=0.12)
    rng = random.Random(0)
    for kind in set(KINDS) - set(AT_ONE_PLACE):
        assert (at := places(kind, 0.5, 4, rng)) == sorted(at)
        assert len(set(at)) == 4
    chain = drawn("tracking", rng)
    assert chain.text(["a", "b"], [0.5, 0.5, 0.5, 0.6, 0.6]) == f"a {' '.join(chain.needles)} b"


def test_lengths_count_tokens_of_the_model(nano: PreTrainedTokenizerFast) -> None:
    for length in (200, 500):
        task, found = passkey(f"length={length},depths=2,each=2")
        for one in found:
            cut = task.cut(one, nano)
            assert cut is not None
            assert length - 60 < len(nano(str(task.prompt(cut, [])))["input_ids"]) <= length
            assert task.cut(one, nano) == cut
    task, found = passkey("length=64")
    with pytest.raises(UserError, match="raise length"):
        task.cut(found[0], nano)
    with pytest.raises(UserError, match="take unit=words"):
        task.cut(found[0], None)
    words = passkey("unit=words,length=200,each=1")[1]
    assert TASKS.build("passkey:unit=words,length=200").cut(words[0], None) == words[0]


def test_a_chat_begins_the_answer() -> None:
    task, (one, *_) = passkey("kind=passkey,unit=words,length=100,template=chat")
    assert task.chat
    assert task.max_new_tokens == 10
    assert task.prompt(one, []) == [{"role": "user", "content": one.turns[0]},
                                    {"role": "assistant", "content": "The pass key is"}]
    key = one.gold["values"][0]
    for answer, right in ((f" {key}. Or 7", 1), (f" 7, {key}", 0), (f" {key}1", 0), (" none", 0)):
        assert task.score(one, [answer])["recall"] == right


@pytest.mark.parametrize(("answer", "rule", "recall"), [
    ("a RED cat and a Dog", "all", 1), ("dog", "all", 0.5), ("dog", "any", 1), ("", "any", 0), ("", "all", 0)])
def test_contained_values(answer: str, rule: str, recall: float) -> None:
    gold = {"values": ["Red Cat", "dog"], "rule": rule}
    assert Contains().sample([answer], gold) == {"recall": recall, "all": float(recall == 1)}


def rows(folder: Path, task: str, file: str, *given: dict[str, Any]) -> DataSource:
    (folder / task).mkdir(exist_ok=True)
    (folder / task / file).write_text("".join(json.dumps(row) + "\n" for row in given))
    return DataSource(folder)


def test_rows_of_ruler(tmp_path: Path) -> None:
    data = rows(tmp_path, "ruler", "vt_64.jsonl", {
        "index": 9, "input": "VAR A = 1. VAR B = VAR A.", "outputs": ["A", "B"], "length": 60,
        "answer_prefix": " They are:"}, {"index": 9, "input": "x", "outputs": ["C"]})
    task = TASKS.build("ruler:part=vt,length=64")
    one, other = task.examples(data)
    assert (one.id, other.id, task.max_new_tokens) == ("ruler/0", "ruler/1", 30)
    assert task.prompt(one, []) == "VAR A = 1. VAR B = VAR A. They are:"
    assert task.prompt(other, []) == "x"
    assert task.score(one, [" b"]) == {"recall": 0.5, "all": 0}
    questions = TASKS.build("ruler:part=qa_1,length=64,template=chat")
    (one,) = questions.examples(rows(tmp_path, "ruler", "qa_1_64.jsonl", {
        "input": "Who?", "outputs": ["Tom", "Mr. Tom"], "answer_prefix": " Answer:"}))
    assert questions.prompt(one, []) == [{"role": "user", "content": "Who?"},
                                         {"role": "assistant", "content": "Answer:"}]
    assert questions.score(one, ["tom"]) == {"recall": 1, "all": 1}
    with pytest.raises(UserError, match=r"give --data DIR with the file DIR/ruler/cwe_4096\.jsonl"):
        TASKS.build("ruler:part=cwe").examples(DataSource())


DOCUMENT = {"_id": "a", "context": "The {input} is blue.", "input": "Which {context}?",
            "answers": ["the blue", "Azure."], "length": 4100, "all_classes": None, "dataset": "x", "language": "en"}


def test_rows_of_longbench(tmp_path: Path) -> None:
    task = TASKS.build("longbench:part=qasper")
    data = rows(tmp_path, "longbench", "qasper.jsonl", DOCUMENT)
    (one,) = task.examples(data)
    assert (one.id, one.category) == ("qasper/a", "4-8k")
    assert (task.chat, task.max_new_tokens, task.sub_tasks) == (True, 128, None)
    assert one.turns[0].startswith("The {input} is blue.\n\nQuestion: Which {context}?\n")
    assert len(data.warnings) == 1
    assert task.score(one, ["azure"]) == {"score": 1}
    assert task.score(one, ["green"]) == {"score": 0}
    prompts = tmp_path / "longbench" / "dataset2prompt.json"
    prompts.write_text(json.dumps({"qasper": "Q: {input} C: {context}", "lcc": 3}))
    published = DataSource(tmp_path)
    assert task.examples(published)[0].turns == ("Q: Which {context}? C: The {input} is blue.",)
    assert published.warnings == []
    for bad in ("{}", "[]", "no", json.dumps({"qasper": "no field"})):
        prompts.write_text(bad)
        with pytest.raises(UserError, match="has no prompt of 'qasper'"):
            task.examples(DataSource(tmp_path))
    ranges = rows(tmp_path, "longbench", "lcc_e.jsonl",
                  *({**DOCUMENT, "_id": str(n), "length": n} for n in (3999, 8000)))
    prompts.unlink()
    code = TASKS.build("longbench:part=lcc,e=true")
    assert [one.category for one in code.examples(ranges)] == ["0-4k", "8k+"]
    assert (code.sub_tasks, code.chat) == ({}, False)


@pytest.mark.parametrize(("part", "row", "reason"), [
    ("trec", {}, "the field 'all_classes' is missing"), ("passage_count", {}, "an answer has no number")])
def test_rows_that_cannot_be_scored(part: str, row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    data = rows(tmp_path, "longbench", f"{part}.jsonl", {**DOCUMENT, **row})
    with pytest.raises(UserError, match=f"line 1: {reason}"):
        TASKS.build(f"longbench:part={part}").examples(data)


def test_long_prompts_lose_their_middle(nano: PreTrainedTokenizerFast) -> None:
    text = " ".join(f"The number is {n}." for n in range(60))
    tokens = nano(text)["input_ids"]
    example = Example("a", (text,), {"rule": "f1"}, "8k+")
    task = TASKS.build("longbench:length=101")
    cut = task.cut(example, nano)
    assert cut is not None
    assert cut.turns[0] == nano.decode(tokens[:50]) + nano.decode(tokens[-50:])
    assert (cut.gold, cut.category) == (example.gold, "8k+")
    assert TASKS.build(f"longbench:length={len(tokens)}").cut(example, nano) is example
    assert task.cut(example, None) is example


@pytest.mark.parametrize(("text", "wanted", "score"), [
    ("The cat, the dog!", "a Cat", 2 / 3), ("an The a", "x", 0), ("cat cat", "cat", 2 / 3), ("", "x", 0),
    ("Yes.", "yes", 1)])
def test_f1_of_words(text: str, wanted: str, score: float) -> None:
    assert word_f1(text, wanted) == pytest.approx(score)


@pytest.mark.parametrize(("text", "wanted", "score"), [  # what the package rouge 1.0.1 returns
    ("the cat sat on the mat", "the cat sat on the mat", 0.999999995),
    ("the cat sat on the mat", "a cat was on the mat today", 0.6666666618055556),
    ("The dog ran. It was fast. The cat slept.", "The cat slept. A dog ran fast.", 0.7999999950222222),
    ("the the the cat", "the cat the dog the", 0.39999999520000007),
    ("One two three four five.", "one Two three. four five six seven", 0.499999995138889),
    ("w1 w2 w6 w7 w8. w1 w3 w8 w9 w5", "w1 w2 w3 w4 w5", 0.6153846106508877),
    ("Dr. Smith went to the U.S. in 1999 and came back.", "In 1999 Dr. Smith went to the U.S. with Tom.",
     0.6956521689224953), ("  spaced   out\nlines here. ok", "spaced lines out here", 0.6666666617283951),
    ("no overlap", "xyz", 0), ("a. . b", "a b. .", 0.999999995), ("", "a b", 0), ("...", "a b", 0), (" ", "a b", 0)])
def test_rouge(text: str, wanted: str, score: float) -> None:
    assert rouge_l(text, wanted) == pytest.approx(score, abs=1e-12)


def test_common_subsequences_are_longest() -> None:
    rng = random.Random(1)
    for _ in range(50):
        first, second = ([rng.choice("abc") for _ in range(rng.randint(0, 6))] for _ in range(2))
        parts = [{"".join(one[i] for i in range(len(one)) if mask >> i & 1) for mask in range(1 << len(one))}
                 for one in (first, second)]
        found = "".join(common_subsequence(first, second))
        assert found in parts[0] & parts[1]
        assert len(found) == max(map(len, parts[0] & parts[1]))


@pytest.mark.parametrize(("text", "wanted", "score"), [  # what fuzzywuzzy 0.18 returns without its C library
    ("return x + 1", "return x + 2", 0.92), ("    def f(self):", "    def g(self, x):", 0.86), ("", "abc", 0),
    ("foo(bar)", "foo(baz, bar)", 0.76), ("import numpy as np", "import pandas as pd", 0.7),
    ("\n\n# note\n// note\n```py\nabc\nxyz", "abc", 1), ("# abc", "abc", 0)])
def test_lines_of_code(text: str, wanted: str, score: float) -> None:
    assert line_similarity(text, wanted) == score


def test_numbers_and_classes() -> None:
    assert share_of_numbers("Paragraph 3, or 4, or 3", "Paragraph 3") == pytest.approx(2 / 3)
    assert share_of_numbers("13", "3") == share_of_numbers("none", "3") == 0
    classes = ["Date", "Other date", "City", "Other city"]
    assert class_score("Type: City", "City", classes) == 1
    assert class_score("City or Date", "City", classes) == 0.5
    assert class_score("Other date", "Date", classes) == 0
    assert class_score("Big City", "Big City", ["City", "Big City"]) == 1
    assert class_score("a b a b c", "a b c", ["a", "b", "a b c"]) == 0.5  # 'b' is skipped, as published


@pytest.mark.parametrize(("part", "answer", "wanted", "score"), [
    ("triviaqa", "\nblue\nred", "blue", 1), ("hotpotqa", "blue\nred", "blue", 2 / 3),
    ("samsum", "\n\na b\nc", "a b", 1), ("trec", "City\nDate", "City", 1)])
def test_parts_with_examples_count_their_first_line(part: str, answer: str, wanted: str, score: float, tmp_path: Path
                                                    ) -> None:
    row = {**DOCUMENT, "answers": [wanted], "all_classes": ["City", "Date"]}
    task = TASKS.build(f"longbench:part={part}")
    (one,) = task.examples(rows(tmp_path, "longbench", f"{part}.jsonl", row))
    assert task.score(one, [answer])["score"] == pytest.approx(score)
