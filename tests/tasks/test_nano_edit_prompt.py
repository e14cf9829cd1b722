"""Edited texts: what the edits change, that they give the prompt, and that only the new answer is right."""

import itertools
import re
from collections import Counter

import pytest

from harness.nano.corpus import problems
from harness.nano.sizes import tokens
from harness.nano.summaries import PRONOUNS, sentences_of, summary
from harness.plugins.data import DataSource
from harness.plugins.prompt_parts import Edit, Span, edited
from harness.plugins.registry import TASKS
from harness.plugins.task import Example
from harness.scoring.copying import NewText

TASK = TASKS.build("nano_edit_prompt")
KINDS = ("replace", "insert", "delete", "both")


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return TASK.examples(DataSource())


def test_the_rule_of_summaries_gives_the_answers_of_the_corpus() -> None:
    for one in problems("summary", "test", 200):
        assert " ".join(summary(*sentences_of(one.turns[0]))) == one.check["text"]


def test_the_edits_turn_the_earlier_prompt_into_the_prompt(examples: list[Example]) -> None:
    assert len({one.id for one in examples}) == len({one.turns for one in examples}) == len(examples) == 200
    for one in examples:
        parts = TASK.parts(one, [])
        assert edited(parts.earlier, parts.edits) == TASK.prompt(one, []) == one.turns[0] != parts.earlier
        assert len(parts.edits) == (2 if one.gold["kind"] == "both" else 1)
        assert all(before.span.end <= after.span.start for before, after in itertools.pairwise(parts.edits))
        assert "  " not in one.turns[0]
        assert " \n" not in one.turns[0]
        low = int(re.match(r"\d+", one.category)[0])  # type: ignore[index]
        assert low <= tokens(parts.earlier[parts.edits[-1].span.end:]) < (low + 50 if low < 150 else 999)
    assert edited("abcdef", [Edit(Span(0, 1), "xy"), Edit(Span(2, 2), "-"), Edit(Span(4, 6), "")]) == "xyb-cd"


def test_each_kind_changes_what_it_says(examples: list[Example]) -> None:
    assert min(Counter(one.gold["kind"] for one in examples)[kind] for kind in KINDS) > 30
    for one in examples:
        gold, (before, name), (after, same) = one.gold, sentences_of(one.gold["earlier"]), sentences_of(one.turns[0])
        assert name == same
        assert gold["old"] == " ".join(summary(before, name)) != gold["text"] == " ".join(summary(after, name))
        assert sum(said.split()[0] not in PRONOUNS for said in before) >= 4
        assert len(after) - len(before) == {"replace": 0, "insert": 1, "delete": -1, "both": 1}[gold["kind"]]
        assert after[0].split()[0] not in PRONOUNS
        if gold["kind"] in ("replace", "both"):
            (word,) = gold["gone"]
            assert len(gold["came"]) == (2 if gold["kind"] == "both" else 1)
            assert word in gold["old"].split() or re.search(rf"\b{word}\b", gold["old"])
            assert not re.search(rf"\b{word}\b", gold["text"])
        assert all(one in gold["text"] and one not in gold["old"] for one in gold["came"])
        if gold["kind"] == "delete":
            assert gold["came"] == []
            assert gold["gone"][0] in before
            assert gold["gone"][0] not in after
        others = [said for said in before if said not in gold["old"]]
        assert [said for said in after if said in others] == others


def test_the_new_answer_scores_and_the_old_one_is_stale(examples: list[Example]) -> None:
    for one in examples[::7]:
        assert TASK.score(one, [f" {one.gold['text']}"]) == {"current": 1, "exact": 1, "stale": 0}
        assert TASK.score(one, [one.gold["old"]]) == {"current": 0, "exact": 0, "stale": 1}
        assert TASK.score(one, [""]) == {"current": 0, "exact": 0, "stale": 0}
        assert TASK.expected(one) == one.gold["text"]


@pytest.mark.parametrize(("answer", "current", "exact", "stale"), [
    ("Tom has five toys.", 1, 1, 0), ("Tom has five toys. He left.", 1, 0, 0), ("Tom has nine toys.", 0, 0, 1),
    ("Tom has nine hats. He left.", 0, 0, 1), ("Tom has ninety toys.", 0, 0, 0), ("five", 0, 0, 0),
    ("Tom has five toys. Tom has nine toys.", 0, 0, 1)])
def test_scores(answer: str, current: float, exact: float, stale: float) -> None:
    gold = {"text": "Tom has five toys.", "old": "Tom has nine toys.", "came": ["five"], "gone": ["nine"]}
    assert NewText().sample([answer], gold) == {"current": current, "exact": exact, "stale": stale}


def test_knobs() -> None:
    for kind in KINDS:
        found = TASKS.build(f"nano_edit_prompt:kind={kind},filler=0").examples(DataSource())
        assert {one.gold["kind"] for one in found} == {kind}
    near, far = (Counter(one.category for one in TASKS.build(f"nano_edit_prompt:filler={n}").examples(DataSource()))
                 for n in (0, 8))
    assert near["0-50"] > 100
    assert far["0-50"] == 0
    assert far["100-150"] > 100
