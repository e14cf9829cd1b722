"""Stories: their references are right and varied, wrong sentences are found, and the task scores both."""

import random
import statistics
from typing import Any

import pytest

from harness.nano.corpus import problems
from harness.nano.problem import Problem
from harness.nano.stories import draw
from harness.nano.story_judge import judge, sentences
from harness.nano.story_moves import CLOSINGS, FOLLOWS, MOVES, OPENINGS
from harness.nano.story_words import BOUND, FREE, KINDS, WORDS
from harness.plugins.data import DataSource
from harness.plugins.registry import TASKS
from harness.scoring.story import StoryText
from harness.scoring.variety import rep_n

COUNT = 300
# Mia (a painter) has the cat Bo and a red lamp, Tom (a sailor) has the dog Rex; they are in the park.
CHECK: dict[str, Any] = {
    "place": "park",
    "cast": [["Mia", "painter", "Bo", "cat"], ["Tom", "sailor", "Rex", "dog"]],
    "things": [["Mia", "lamp", "red"]],
    "goal": ["seven", "shells"],
    "song": ["blue", "sea", "long", "road"],
}


@pytest.fixture(scope="module")
def stories() -> list[Problem]:
    rng = random.Random(5)
    return [draw(rng) for _ in range(COUNT)]


def shown(text: str) -> str:
    """One letter for each sentence: known and consistent `c` (`r` where it is a repeat), known `k`, unknown `-`."""
    return "".join("-k"[one.known] if not one.consistent else "rc"[one.new] for one in judge(CHECK, text))


def test_every_reference_sentence_is_known_and_consistent(stories: list[Problem]) -> None:
    for one in stories:
        verdicts = judge(one.check, one.answers[0])
        assert [verdict for verdict in verdicts if not verdict.known or not verdict.consistent] == []
        assert " ".join(verdict.text for verdict in verdicts) == one.answers[0].strip()


def test_references_are_long_and_varied(stories: list[Problem]) -> None:
    words = [one.answers[0].split() for one in stories]
    assert 200 < statistics.fmean(map(len, words)) < 280
    assert min(map(len, words)) > 170
    assert 0.05 < statistics.fmean(rep_n([one], 4) or 0.0 for one in words) < 0.12
    counts = [len(sentences(one.answers[0])) for one in stories]
    assert 19 <= min(counts) <= max(counts) <= 26
    new = [verdict.new for one in stories for verdict in judge(one.check, one.answers[0])]
    assert 0.9 < statistics.fmean(new) < 0.97
    assert max(len(text.split()) for one in stories for text in sentences(one.answers[0])) < 25


def test_common_patterns_are_common_and_all_are_used(stories: list[Problem]) -> None:
    texts = [text for one in stories for text in sentences(one.answers[0])]
    share = {move.text: statistics.fmean(bool(move.regex.fullmatch(text)) for text in texts) for move in MOVES}
    assert 0.06 < share[MOVES[0].text] < 0.11
    assert max(share.values()) < 0.11
    assert min(share.values()) > 0


def test_openings_are_short_and_distinct(stories: list[Problem]) -> None:
    openings = {one.turns[0] for one in stories}
    assert len(openings) == COUNT
    for opening in openings:
        assert len(sentences(opening)) == 3
        assert 28 <= len(opening.split()) <= 60
        assert opening[-1] in '."'
    assert all(one.answers[0].startswith(" ") and "\n" not in one.answers[0] for one in stories)


def test_the_same_seed_gives_the_same_story() -> None:
    assert draw(random.Random(3)) == draw(random.Random(3))
    assert draw(random.Random(3)) != draw(random.Random(4))


def test_patterns_and_words_fit_together() -> None:
    assert not FREE.keys() & BOUND.keys()
    assert len(KINDS) == 60  # no name is a girl's and a boy's
    assert all(len(set(words)) == len(words) for words in WORDS.values())
    assert {move.scene for move in MOVES} | {"start"} == FOLLOWS.keys()
    everything = (*MOVES, *CLOSINGS, *(pattern for group in OPENINGS for pattern in group))
    assert len({pattern.text for pattern in everything}) == len(everything)
    for slot in {slot for pattern in everything for slot in pattern.slots}:
        assert slot.rstrip("2") in WORDS


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Mia's cat slept slowly under a tree in the park.", "c"),
        ("Mia's dog slept slowly under a tree in the park.", "k"),
        ("Mia's cat slept slowly under a tree in the harbor.", "k"),
        ("Mia's cat slept slowly under a tree in the pakr.", "-"),
        ("Zoe's cat slept slowly under a tree in the park.", "k"),
        ("The sailor's dog slept slowly all day and was never sad.", "c"),
        ("The sailor's cat slept slowly all day and was never sad.", "k"),
        ("The pirate's dog slept slowly all day and was never sad.", "k"),
        ("Bo the cat slept and slept, and then played beside Mia.", "c"),
        ("Bo the cat slept and slept, and then played beside Tom.", "k"),
        ("Bo the cat slept and played, and then played beside Mia.", "-"),
        ("Mia smiled at Tom and said nothing for a while.", "c"),
        ("Mia smiled at Mia and said nothing for a while.", "k"),
        ("Mia smiled at Zoe and said nothing for a while.", "k"),
        ("Mia held the red lamp slowly and thought about the sun.", "c"),
        ("Mia held the blue lamp slowly and thought about the sun.", "k"),
        ("Tom held the red lamp slowly and thought about the sun.", "k"),
        ("Mia held the red ball slowly and thought about the sun.", "k"),
        ("Mia felt sad, but Tom felt happy and wanted to rest.", "c"),
        ("Mia felt sad, but Tom felt sad and wanted to rest.", "k"),
        ('"We need seven shells," said Mia, and she looked very calm.', "c"),
        ('"We need seven shells," said Mia, and he looked very calm.', "k"),
        ('"We need eight shells," said Mia, and she looked very calm.', "k"),
        ('Tom sang softly, "Oh, blue is the sea and long is the road."', "c"),
        ('Tom sang softly, "Oh, blue is the sea and long is the hill."', "k"),
        ("They all went to bed, and that was the end.", "c"),
        ("And then there was nothing.", "-"),
    ],
)
def test_facts_of_the_opening(text: str, wanted: str) -> None:
    assert shown(text) == wanted


def test_the_text_changes_the_place() -> None:
    go, there = "They did not know the way, so they ran slowly to the harbor.", "It rained and rained in the harbor"
    assert shown(f"{there}, but nobody was sad.") == "k"
    assert shown(f"{go} {there}, but nobody was sad.") == "cc"
    assert shown(f"{go} {go}") == "ck"


def test_things_are_found_before_they_are_there_and_change_hands() -> None:
    find = "Later Tom found a blue ball under a wall in the park."
    hold = "Tom held the blue ball slowly and thought about the sun."
    give = "Tom gave the blue ball to Mia and felt sad."
    assert shown(f"{hold} {find} {hold}") == "kcr"
    assert shown(f"{find} {hold} {give} {hold}") == "ccck"
    assert shown(f"{give} {find} {give} {give}") == "kcrk"
    assert shown(f"{find} {find}") == "ck"


def test_newcomers_are_named_after_they_came() -> None:
    meet = "On the way they met a doctor called Zoe, who looked calm."
    smile = "Zoe smiled at Tom and said nothing for a while."
    assert shown(f"{smile} {meet} {smile}") == "kcr"
    assert shown(f"{meet} {meet}") == "ck"
    assert shown("Later a brave girl called Zoe came to the park.") == "c"
    assert shown("Later a brave boy called Zoe came to the park.") == "k"
    assert shown(f'{meet} Tom said softly, "I want to be a doctor like Zoe."') == "cc"


def test_repeats_are_true_but_not_new() -> None:
    rain, again = "It rained and rained in the park, but nobody was sad.", "Once more, it rained"
    assert shown(f"{rain} {rain}") == "cr"
    assert shown(f"{rain} {again} and rained in the park, but nobody was sad.") == "cr"
    assert shown(f"{again} and rained in the park, but nobody was sad.") == "k"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        (" \n ", 0),
        ("One. Two! Three?", 3),
        ("One. Two", 1),
        ('"Who?" asked Tom. "I," said Mia.', 2),
        ('Mia said, "I." Tom nodded.', 2),
        ('One. Mia said, "I.', 1),
        ("One.\nTwo. ", 2),
        ("One. " + "and then " * 40, 2),
    ],
)
def test_sentences(text: str, count: int) -> None:
    assert len(sentences(text)) == count


def test_scores() -> None:
    metric = StoryText()
    rain = "It rained and rained in the park, but nobody was sad."
    assert metric.sample([f"{rain} {rain} Nothing is known. It"], CHECK) == pytest.approx(
        {"fresh": 1 / 3, "coherence": 2 / 3, "rep_4": 8 / 23, "diversity": 15 / 25 * 15 / 24 * 15 / 23}
    )
    assert metric.sample(["Oh no"], CHECK) == {"fresh": 0.0, "coherence": 0.0}
    assert metric.sample([""], CHECK) == {"fresh": 0.0, "coherence": 0.0}


def test_the_task_scores_references_high_and_loops_low() -> None:
    task = TASKS.build("nano_story")
    references = problems("story", "test", 200)
    for example, one in list(zip(task.examples(DataSource()), references, strict=True))[:20]:
        scores = task.score(example, one.answers)
        assert scores["coherence"] == 1.0
        assert scores["fresh"] > 0.6
        looped = task.score(example, [f" {CLOSINGS[-1].text}" * 16])
        assert looped["fresh"] < 0.1 < looped["coherence"]
        assert looped["rep_4"] > 0.8 > looped["diversity"]
        assert task.score(example, [""]) == {"fresh": 0.0, "coherence": 0.0}
