"""Sets of sentences: six orders of the same ones with one answer, and how the spread of answers is scored."""

import pytest

from harness.models.loading import load
from harness.nano.summaries import sentences_of, summary
from harness.plugins.data import DataSource
from harness.plugins.prompt_parts import PLAIN
from harness.plugins.registry import TASKS
from harness.run.prepared_prompt import prepare
from harness.scoring.copying import SameAnswers
from harness.store.config import RunConfig

TASK = TASKS.build("nano_sets")


def test_every_order_has_the_same_sentences_and_answer() -> None:
    found = TASK.examples(DataSource())
    assert len({one.id for one in found}) == len(found) == 100
    for one in found:
        orders = [sentences_of(turn) for turn in one.turns]
        assert len({tuple(said) for said, _ in orders}) == 6
        assert orders[1][0] == orders[0][0][::-1]
        assert orders[0][0] == one.gold["members"]
        assert len(set(one.gold["members"])) >= 3
        for said, name in orders:
            assert sorted(said) == sorted(one.gold["members"])
            assert summary(said, name) == [one.gold["text"]]


def test_parts_are_the_sentences_of_each_turn() -> None:
    for one in TASK.examples(DataSource()):
        for turn, prompt in enumerate(one.turns):
            spans = TASK.parts(one, [""] * turn).members
            assert TASK.prompt(one, [""] * turn) == prompt
            assert [span.of(prompt) for span in spans] == [f" {said}" for said in sentences_of(prompt)[0]]
            assert prompt[:spans[0].start] == "Text:"
            assert [span.end for span in spans[:-1]] == [span.start for span in spans[1:]]
            assert prompt[spans[-1].end:].startswith("\nSummary of ")


@pytest.mark.parametrize("name", ["nano_sets", "nano_edit_prompt", "nano_closed_set:passages=200"])
def test_a_strategy_gets_the_parts_of_the_turn(name: str) -> None:
    task, model, config = TASKS.build(name), load("nano"), RunConfig(model="nano")
    one = task.examples(DataSource())[0]
    for turn in range(len(one.turns)):
        text = prepare(config, model, 2048, task, one, [""] * turn).text
        assert text.parts == task.parts(one, [""] * turn) != PLAIN
        assert text.prompt == one.turns[turn]
    other = TASKS.build("nano_math")
    assert prepare(config, model, 2048, other, other.examples(DataSource())[0], []).text.parts == PLAIN


def test_scores_of_the_answers() -> None:
    one = TASK.examples(DataSource())[0]
    right = f" {one.gold['text']}"
    assert TASK.score(one, [right] * 6) == {"exact": 1, "best": 1, "worst": 1, "distinct": 1, "same": 1}
    wrong = [said for said in one.gold["members"] if said != one.gold["text"]][:2]
    assert TASK.score(one, [right, *wrong, right, right, wrong[0]]) == {
        "exact": 0.5, "best": 1, "worst": 0, "distinct": 3, "same": 0}
    assert TASK.score(one, [wrong[0]] * 6) == {"exact": 0, "best": 0, "worst": 0, "distinct": 1, "same": 1}


@pytest.mark.parametrize(("answers", "distinct"), [(["a", " a ", "a\n"], 1), (["a", "A", ""], 3)])
def test_blanks_at_the_ends_are_no_difference(answers: list[str], distinct: int) -> None:
    assert SameAnswers().sample(answers, {"text": "a"})["distinct"] == distinct
