"""Needles in nano's haystacks: where they lie, that only they answer the question, and how answers are scored."""

import itertools
import re

import pytest
from tokenizers import Tokenizer

from harness.errors import UserError
from harness.nano import weights
from harness.nano.needles import PRONOUNS, haystacks, word_recall
from harness.plugins.data import DataSource
from harness.plugins.registry import TASKS
from harness.plugins.task import Example
from harness.scoring.copying import NeedlesFound, longest_rise, sentences

NANO = Tokenizer.from_file(str(weights("nano") / "tokenizer.json"))


def made(knobs: str = "") -> list[Example]:
    return TASKS.build(f"nano_needle{knobs}").examples(DataSource())


def size(text: str) -> int:
    return len(NANO.encode(text).ids)


def asked(example: Example) -> tuple[list[str], str]:
    """The sentences of the text, and the name that the last line asks for, without an article."""
    text, _, question = example.turns[0].rpartition("\n")
    return sentences(text.rpartition("Text: ")[2]), question.split()[-1].rstrip(":").lower()


def test_texts_have_the_lengths_and_the_needle_every_depth() -> None:
    found = made()
    assert len({one.id for one in found}) == len({one.turns for one in found}) == len(found) == 200
    for i, one in enumerate(found):
        text, needle = one.turns[0].partition("\n")[0].removeprefix("Text: "), one.gold["text"]
        length = (64, 128, 192, 256, 320)[i // 5 % 5]
        assert one.category == str(length)
        assert length - 20 <= size(f"Text: {text}") - size(needle) <= length + 60
        before, after = text.split(needle)
        assert len(before) / (len(before) + len(after)) == pytest.approx(one.gold["depth"], abs=0.2)
        assert one.gold["depth"] == (0, 0.25, 0.5, 0.75, 1)[i % 5]
        assert (before == "", after == "") == (i % 5 == 0, i % 5 == 4)


@pytest.mark.parametrize("knobs", ["", ":sentences=3,length=96"])
def test_the_rule_of_summaries_gives_the_needles_and_nothing_else(knobs: str) -> None:
    for one in made(knobs):
        (said, name), kept, inside = asked(one), [], False
        for line in said:
            first = re.match(r"(?:The )?(\w+)", line)
            assert first is not None
            if first[1] not in PRONOUNS:
                inside = first[1].lower() == name
            kept += [line] if inside else []
        assert " ".join(kept) == one.gold["text"]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_several_needles_lie_apart_and_their_answer_fits(count: int) -> None:
    found, places = made(f":sentences={count},length=64,needles=20"), set()
    for one in found:
        said, needles = asked(one)[0], one.gold["needles"]
        where = [said.index(needle) for needle in needles]
        assert len(set(needles)) == count
        assert where == sorted(where)
        assert all(after - before > 1 for before, after in itertools.pairwise(where))
        assert size(one.gold["text"]) < TASKS.get("nano_needle").max_new_tokens
        places.add(tuple(where))
    assert len(places) > 10


def test_one_length_is_that_part_of_all_lengths() -> None:
    texts = [one.turns for one in made() if one.category == "128"]
    assert [one.turns for one in made(":length=128")] == texts
    first = [one.turns[0] for one in made(":length=128,question=first")]
    assert first == [f"{text.rpartition(chr(10))[2]}\n{text}" for text, in texts]
    assert {one.gold["depth"] for one in made(":length=64,depths=1,needles=3")} == {0.0}
    for knobs, reason in ((":length=-1", "must be at least 0"), (":sentences=5", "must be at most 4"),
                          (":question=no", "must be one of last, first")):
        with pytest.raises(UserError, match=reason):
            made(knobs)


def test_no_text_of_training_or_of_the_retrieval_heads_is_hidden() -> None:
    ours = {needle for one in made() for needle in one.gold["needles"]}
    theirs = {needle for one in haystacks(size, [64], 1, 8, "dev") for needle in one.wanted}
    assert len(ours) == len(theirs) == 8
    assert not ours & theirs


def test_the_needles_score_and_the_hay_does_not() -> None:
    task = TASKS.build("nano_needle")
    for one in made()[::17]:
        assert task.score(one, [f" {one.gold['text']}"]) == {"found": 1, "recall": 1, "exact": 1}
        assert task.score(one, [""]) == {"found": 0, "recall": 0, "exact": 0}
        hay = next(line for line in asked(one)[0] if line not in one.gold["text"])
        assert task.score(one, [hay])["found"] == 0
        assert task.expected(one) == one.gold["text"]


@pytest.mark.parametrize(("answer", "scores"), [
    ("Tom sang. Tom left. Tom slept.", (1, 1, 1, 1, 1)), ("Tom slept. Tom sang. Tom left.", (1, 1, 0, 1, 2 / 3)),
    ("Tom slept. Tom left. Tom sang.", (1, 1, 0, 1, 1 / 3)), ("Tom sang.", (0, 1 / 3, 0, 1 / 3, 1 / 3)),
    ("Tom Tom Tom sang.", (1, 2 / 3, 0, 1 / 3, 1 / 3)), ("The bear sang.", (0, 1 / 6, 0, 0, 0)),
    ("", (0, 0, 0, 0, 0))])
def test_scores_of_several_needles(answer: str, scores: tuple[float, ...]) -> None:
    gold = {"text": "Tom sang. Tom left. Tom slept.", "needles": ["Tom sang.", "Tom left.", "Tom slept."]}
    names = ("found", "recall", "exact", "needles", "ordered")
    assert NeedlesFound().sample([answer], gold) == pytest.approx(dict(zip(names, scores, strict=True)))


def test_recall_and_order() -> None:
    assert word_recall("The Bear is nine", "The bear is ten") == 0.75
    assert word_recall("bear bear bear", "The bear is ten") == 0.25
    assert word_recall("a", "") == 0
    assert [longest_rise(one) for one in ([], [3], [3, 1, 2], [1, 2, 3], [4, 1, 5, 2, 6])] == [0, 1, 2, 3, 3]
