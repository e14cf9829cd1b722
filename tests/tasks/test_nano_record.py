"""Facts to put into sentences: which texts tell all of them, and what a model is trained on."""

from typing import Any

import pytest

from harness.nano.corpus import RECORD, problems
from harness.nano.records import ASKED, PHRASES, SLOTS, TRAINED, VALUES, slots, wanted
from harness.plugins.data import DataSource
from harness.plugins.registry import TASKS
from harness.scoring.slots import slot_errors

TASK = TASKS.build("nano_record")


def test_the_text_of_every_problem_tells_each_fact_once() -> None:
    some = problems(RECORD, "train", 400)
    assert {len(slots(one)) for one in some} == set(range(SLOTS[0], SLOTS[1] + 1))
    for one in some:
        assert not sum(slot_errors(one.answers[0], slots(one), PHRASES)), one


def test_problems_have_more_facts_than_texts_of_the_training_and_no_prompt_is_in_two_splits() -> None:
    found, dev = TASK.examples(DataSource()), TASKS.build("nano_record:split=dev").examples(DataSource())
    assert len(found) == len(dev) == 200
    assert {len(one.gold["slots"]) for one in found} == set(range(ASKED, SLOTS[1] + 1))
    assert SLOTS[1] > TRAINED >= ASKED
    turns = [{one.turns for one in some} for some in (found, dev, problems(RECORD, "train", 2000))]
    assert len(set.union(*turns)) == sum(map(len, turns))


FACTS = [["name", "Blue Fox"], ["food", "Thai"], ["seats", "40"], ["family", "no"], ["near", "the museum"]]
RIGHT = "Blue Fox is a Thai restaurant near the museum. It has 40 seats and is not for children."


@pytest.mark.parametrize(("text", "missing", "repeated", "wrong"), [
    (RIGHT, 0, 0, 0),
    (RIGHT.replace("a Thai", "a"), 1, 0, 0),
    (RIGHT.replace("Thai", "Indian"), 0, 0, 1),
    (RIGHT + " It has room for 40 guests.", 0, 1, 0),
    (RIGHT.replace("not for children", "for families"), 0, 0, 1),
    (RIGHT + " It was given 3 stars.", 0, 0, 1),
    (RIGHT.replace("Blue Fox", "Red Fox").replace("the museum", "the market"), 2, 0, 0),
])
def test_errors_are_counted(text: str, missing: int, repeated: int, wrong: int) -> None:
    example: Any = TASK.examples(DataSource())[0]
    example.gold["slots"] = FACTS
    scores = TASK.score(example, [text])
    errors = {"missing": missing, "repeated": repeated, "wrong": wrong}
    assert scores == {"faultless": float(not sum(errors.values())), **errors}
    assert TASK.sums(example, [text]) == {"ser": [missing + repeated + wrong, 5]}


def test_each_fact_is_told_by_one_of_its_phrases() -> None:
    for one in problems(RECORD, "train", 100):
        assert all(any(phrase in one.answers[0] for phrase in wanted(*fact)) for fact in slots(one))
        assert sum(any(phrase in one.answers[0] for phrase in wanted("rating", str(stars))) for stars in range(1, 6)) \
            == any(name == "rating" for name, _ in slots(one))


def test_every_value_has_a_pattern() -> None:
    for name, patterns in PHRASES.items():
        assert {value.lower() for value in VALUES[name]} == set(patterns)
