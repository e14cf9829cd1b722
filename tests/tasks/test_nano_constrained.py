"""Stories with given words: a coherent text with all of them exists, a list of them or a loop scores low."""

import pytest

from harness.nano.corpus import problems
from harness.plugins.data import DataSource
from harness.plugins.registry import TASKS
from harness.plugins.task import Example
from harness.scoring.coverage import CoveredStory, contains, coverage

TASK = TASKS.build("nano_constrained")


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return TASK.examples(DataSource())


def test_words_are_new_and_few(examples: list[Example]) -> None:
    assert len({example.id for example in examples}) == len(examples) == 150
    assert TASK.examples(DataSource()) == examples
    sizes = [len(example.gold["wanted"]) for example in examples]
    assert set(sizes) == {2, 3, 4}
    assert min(sizes.count(size) for size in (2, 3, 4)) > 30
    for example in examples:
        assert not any(contains(example.turns[0], word) for word in example.gold["wanted"])
        assert TASK.wanted(example) == tuple((word,) for word in example.gold["wanted"])
    words = {word for example in examples for word in example.gold["wanted"]}
    assert len(words) > 60
    assert any(" " in word for word in words)
    assert any(word[0].isupper() for word in words)


def test_a_sound_text_with_all_words_fits_into_the_answer(examples: list[Example]) -> None:
    from harness.models.loading import load

    tokenizer = load("nano").tokenizer
    stories = {one.id.replace("story", "constrained"): one for one in problems("story", "test", 160)}
    sound = 0.0
    for example in examples:
        tokens = tokenizer(stories[example.id].answers[0], add_special_tokens=False)["input_ids"]
        scores = TASK.score(example, [tokenizer.decode(tokens[:TASK.max_new_tokens])])
        assert (scores["coverage"], scores["all"]) == (1.0, 1.0)
        assert scores["covered_sound"] == scores["sound"]
        sound += scores["sound"] / len(examples)
    assert sound > 0.9  # references say some sentences again


def test_neither_a_list_nor_a_loop_wins(examples: list[Example]) -> None:
    for example in examples[:40]:
        listed = TASK.score(example, [f" {' '.join(example.gold['wanted'])}."])
        assert (listed["all"], listed["sound"], listed["covered_sound"]) == (1.0, 0.0, 0.0)
        assert TASK.score(example, [""]) == {"covered_sound": 0.0, "coverage": 0.0, "all": 0.0, "sound": 0.0}
        looped = TASK.score(example, [" They all went to bed, and that was the end." * 5])
        assert (looped["coverage"], looped["covered_sound"]) == (0.0, 0.0)
        assert looped["sound"] == pytest.approx(0.2)


@pytest.mark.parametrize(("text", "phrase", "found"), [
    ("a red lamp.", "lamp", True), ("Lamp", "lamp", True), ("lamps", "lamp", False), ("clamp", "lamp", False),
    ("LAMP", "lamp", False), ("Later they", "later", True), ("once, later", "Later", True),
    ("in half a day.", "half a day", True), ("half a  day", "half a day", False), ("a +b", "+b", True),
    ("", "a", False)])
def test_whole_words(text: str, phrase: str, found: bool) -> None:
    assert contains(text, phrase) is found


def test_scores() -> None:
    assert coverage("the red cat", (("cat", "dog"), ("blue", "green"), ("red",))) == pytest.approx(2 / 3)
    assert coverage("anything", ()) == 1.0
    gold = {"place": "park", "cast": [["Mia", "painter", "Bo", "cat"], ["Tom", "sailor", "Rex", "dog"]],
            "things": [], "goal": [], "song": [], "wanted": ["park", "sad", "harbor"]}
    text = "It rained and rained in the park, but nobody was sad. Nothing is known. It"
    assert CoveredStory().sample([text], gold) == {
        "covered_sound": pytest.approx(1 / 3), "coverage": pytest.approx(2 / 3), "all": 0.0, "sound": 0.5}
