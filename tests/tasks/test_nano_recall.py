"""Words to recall: that the text alone has the answer, that sizes and orders are as said, and how answers score."""

import re
from collections import Counter

import pytest

from harness.nano import TRAINED
from harness.nano.passages import LISTED
from harness.nano.recall import LARGE, PAIRS, SMALL, SUBJECTS, first_named, pairs, sets
from harness.nano.sizes import tokens
from harness.plugins.data import DataSource
from harness.plugins.registry import TASKS
from harness.plugins.task import Example
from strategies.greedy import Greedy
from strategies.read_twice import ReadTwice

TASK = TASKS.build("nano_recall")
ORDERS = [order for large in LARGE for order in (f"{SMALL} then {large}", f"{large} then {SMALL}")]


def said(example: Example) -> list[tuple[str, list[str]]]:
    """Each subject of a text, in lower case, with its words."""
    text = example.turns[0].partition("\n")[0].removeprefix("Text: ")
    found = re.findall(r"(\w[\w ]*) asked for ([\w ]+)\.", text)
    assert " ".join(f"{who} asked for {words}." for who, words in found) == text
    return [(who.lower(), words.split()) for who, words in found]


def test_every_size_and_order_has_as_many_texts() -> None:
    found = TASK.examples(DataSource())
    assert Counter(one.category for one in found) == dict.fromkeys([*(f"{size} pairs" for size in PAIRS), *ORDERS], 25)
    assert len({one.id for one in found}) == len({one.turns for one in found}) == len(found) == 200


def test_the_word_of_the_name_is_asked_for() -> None:
    places = set[float]()
    for one in TASKS.build("nano_recall:kind=pairs").examples(DataSource()):
        known, name = said(one), one.turns[0].rpartition("Summary of ")[2].removesuffix(":").lower()
        size = int(one.category.split()[0])
        assert len(known) == len(dict(known)) == len({words[0] for _, words in known}) == size
        assert dict(known)[name] == [one.gold["text"]]
        assert one.gold["words"] == sorted(words[0] for _, words in known)
        places.add(round([who for who, _ in known].index(name) / (size - 1), 1))
    assert len(places) == 11, "any place of the text is asked for"


def test_one_word_is_in_both_lists_which_are_the_same_in_both_orders() -> None:
    found = TASKS.build("nano_recall:kind=sets").examples(DataSource())
    for one in found:
        (_, first), (_, second) = said(one)
        assert [len(first), len(second)] == [int(size) for size in one.category.split(" then ")]
        assert Counter(first + second).most_common(2)[0] == (one.gold["text"], 2)
        assert len({*first, *second}) == len(first) + len(second) - 1
        assert one.gold["words"] == sorted({*first, *second})
    for start in range(0, len(found), 50):
        for one, other in zip(found[start : start + 25], found[start + 25 : start + 50], strict=True):
            assert [words for _, words in said(one)] == [words for _, words in said(other)][::-1]


def test_a_size_is_that_part_of_all_sizes() -> None:
    assert {one.turns for one in TASKS.build("nano_recall:kind=pairs,pairs=16,count=5").examples(DataSource())} < \
        {one.turns for one in TASK.examples(DataSource()) if one.category == "16 pairs"}


def test_a_word_is_a_token_and_no_text_is_longer_than_those_of_training() -> None:
    assert {tokens(f" {word}") for word in LISTED} == {1}
    assert {tokens(f" {name.removeprefix('the ')}") for name in SUBJECTS} == {1}
    assert not {name.removeprefix("the ") for name in SUBJECTS} & set(LISTED)
    assert max(tokens(one.turns[0]) for one in TASK.examples(DataSource())) < TRAINED


def test_the_text_is_a_line_before_the_question_and_so_is_read_twice() -> None:
    for one in TASK.examples(DataSource())[::20]:
        text, question = one.turns[0].split("\n")
        assert ReadTwice(over=Greedy()).again(one.turns[0]).split("\n") == \
            [question, text, text, question]


def test_references_are_right_and_other_words_are_not() -> None:
    for made in (*map(pairs, PAIRS, [3] * 4), *(some for large in LARGE for some in sets(large, 3).values())):
        for one in made:
            example, others = Example(one.id, one.turns, one.check), [*one.check["words"]]  # type: ignore[misc]
            assert TASK.score(example, [one.answers[0]]) == {"right": 1, "named": 1}
            assert TASK.expected(example) == one.check["text"]
            others.remove(one.check["text"])
            assert {TASK.score(example, [f" {word}"])["right"] for word in others} == {0}


@pytest.mark.parametrize(("answer", "word"), [
    (" Tom asked for piano.", "piano"), (" PIANO", "piano"), (" pianos and Oslo", "Oslo"), (" oslo piano", "Oslo"),
    ("", None), (" Tom asked for", None)])
def test_the_first_word_of_the_text_is_the_answer(answer: str, word: str | None) -> None:
    example = Example("one", ("",), {"text": "piano", "words": ["Oslo", "piano", "snow"]})
    assert first_named(answer, example.gold["words"]) == TASK.answer(example, answer) == word
    assert TASK.score(example, [answer]) == {"right": word == "piano", "named": word is not None}
