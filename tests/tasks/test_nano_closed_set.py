"""A closed set of passages: what is in it, that the right one scores, and ranks by BM25 against the formula."""

import math
from itertools import pairwise, starmap

import pytest

from harness.nano.closed_set import passages
from harness.nano.corpus import problems
from harness.plugins.data import DataSource
from harness.plugins.registry import TASKS
from harness.scoring.ranking import Bm25

TASK = TASKS.build("nano_closed_set:passages=300")


def test_the_set_has_every_right_text_and_others() -> None:
    small, large, near = passages(300), passages(400), passages(300, near=True)
    for one, count in ((small, 300), (large, 400), (near, 600)):
        assert len(set(one)) == len(one) == count
    assert small == large[:300] == near[:300]
    rights = [one.check["text"] for one in problems("edit", "test", 200)]
    assert list(small[:len(set(rights))]) == list(dict.fromkeys(rights))
    for one, other in zip(near[:300], near[300:], strict=True):
        pairs = list(zip(one.split(), other.split(), strict=True))
        assert sum(starmap(str.__ne__, pairs)) == 1


def test_strategies_get_the_set() -> None:
    found = TASK.examples(DataSource())
    assert len({one.id for one in found}) == len(found) == 200
    assert TASK.parts(found[0], []).passages == passages(300)
    assert len(TASKS.build("nano_closed_set:passages=200,near=true").parts(found[0], []).passages) == 400
    assert all(one.gold["text"] in passages(300) for one in found)
    assert found[3].turns == TASKS.build("nano_edit").examples(DataSource())[3].turns
    assert found[3].turns[0] == f"Text: {found[3].gold['query']}\nCorrected:"


def test_the_right_passage_scores_and_another_does_not() -> None:
    found = TASK.examples(DataSource())
    for one, other in pairwise(found[:20]):
        scores = TASK.score(one, [f" {one.gold['text']}"])
        assert (scores["hit"], scores["inside"], scores["mrr"]) == (1, 1, 1)
        assert 0 < scores["mrr_query"] <= 1
        shuffled = TASK.score(one, [other.gold["text"]])
        assert (shuffled["hit"], shuffled["inside"]) == (0, 1)
        assert shuffled["mrr"] < 0.6
        assert shuffled["mrr_query"] == scores["mrr_query"]
        assert TASK.score(one, [""]) == {"hit": 0, "inside": 0, "mrr": 0, "mrr_query": scores["mrr_query"]}
        assert TASK.score(one, [f"{one.gold['text']} Tom sang."])["inside"] == 0


def test_bm25() -> None:
    index = Bm25(["The cat, the dog.", "A cat sang", "no"])
    mean = (4 + 3 + 1) / 3

    def part(found: int, count: int, length: int) -> float:
        weight = math.log(1 + (3 - found + 0.5) / (found + 0.5))
        return weight * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * length / mean))
    assert index.scores("the CAT") == pytest.approx([part(1, 2, 4) + part(2, 1, 4), part(2, 1, 3), 0])
    assert index.scores("cat cat")[1] == pytest.approx(2 * part(2, 1, 3))
    assert [index.rank("sang", number) for number in range(3)] == [2.5, 1, 2.5]
    assert index.rank("unknown", 0) == 2
