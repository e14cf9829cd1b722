"""Lists of names: every right answer counts, and no other."""

import itertools
from collections import Counter

import pytest

from harness.models.loading import load
from harness.nano.lists import ASKED, ONE_ANSWER, right
from harness.plugins.data import DataSource
from harness.plugins.registry import TASKS
from harness.run.selection import choose_tasks
from harness.store.config import RunConfig

TASK = TASKS.build("nano_parallel")


def test_a_run_that_names_no_task_leaves_it_out() -> None:
    """It leaves out the other tasks on which nano was not trained, too."""
    embedded = {name for name in TASKS.built_in() if name.startswith("nano_")}
    left_out = {TASK.name, "nano_recall", "nano_record"}
    assert {chosen.task.name for chosen in choose_tasks(RunConfig())} == embedded - left_out


def test_every_kind_has_as_many_examples_and_a_right_answer() -> None:
    found = TASK.examples(DataSource())
    assert Counter(one.category for one in found) == dict.fromkeys(ASKED, 33)
    assert len({one.id for one in found}) == len({one.turns for one in found}) == len(found)
    for one in found:
        assert TASK.score(one, [f" {one.gold['text']}"]) == {"right": 1, "length": 1}
        assert TASK.score(one, [""]) == {"right": 0, "length": 0}
        names = one.gold["names"]
        assert 3 <= len(names) <= 6
        assert one.gold["new"] not in names


def test_as_many_orders_are_right_as_the_kind_allows() -> None:
    for one in TASK.examples(DataSource())[:60]:
        names = [*one.gold["names"], one.gold["new"]]
        count = len(names) - 1
        if count > 4:
            continue
        answers = sum(right(one.gold, answer) for answer in itertools.product(names, repeat=count))
        assert answers == {"shuffle": 24 if count == 4 else 6, "replace_any": count}.get(one.category, 1)
        assert (answers == 1) == (one.category in ONE_ANSWER)


@pytest.mark.parametrize(("kind", "answer", "score"), [
    ("shuffle", "Mia, Tom, Adam", 1), ("shuffle", "Mia,Tom,Adam ", 1), ("shuffle", "Mia, Tom, Tom", 0),
    ("replace_any", "Eva, Mia, Adam", 1), ("replace_any", "Tom, Mia, Eva", 1), ("replace_any", "Tom, Mia, Adam", 0),
    ("replace_any", "Eva, Mia, Eva", 0), ("replace_any", "Tom, Eva", 0), ("copy", "Tom, Mia, Adam", 1),
    ("copy", "Mia, Tom, Adam", 0), ("copy", "Tom, Mia, Adam, Eva", 0)])
def test_scores(kind: str, answer: str, score: int) -> None:
    gold = {"kind": kind, "names": ["Tom", "Mia", "Adam"], "new": "Eva", "place": 0, "text": "Tom, Mia, Adam"}
    assert TASK.metric().compute(predictions=[[answer]], references=[gold])["right"] == score  # type: ignore[union-attr]


def test_a_name_is_a_token() -> None:
    """So that the length of the answer is known: a token for each name and each comma."""
    tokenizer = load("nano").tokenizer
    for one in TASK.examples(DataSource()):
        names = one.gold["names"]
        assert len(tokenizer.encode(f" {one.gold['text']}", add_special_tokens=False)) == 2 * len(names) - 1
