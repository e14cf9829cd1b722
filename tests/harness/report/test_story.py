"""How the tokens of an answer came to be, against lists made by hand."""

import math
import random

from harness.report.story import kinds, story
from harness.store.schema import Steps, Turn

# prefill; 4 of 4 accepted; 2 of 4; 0 of 4; nothing drafted; a whole branch of 2 in a tree of 6 nodes; 3 of 4 accepted
# where the answer ended at the second
STEPS = Steps(tokens=[1, 5, 3, 1, 1, 3, 2], drafted=[0, 4, 4, 4, 0, 6, 4], accepted=[0, 4, 2, 0, 0, 2, 3],
              whole=[0, 1, 0, 0, 0, 1, 0], seconds=[0.01] * 7)
BY_HAND = "o" "aaaab" "aac" "c" "o" "aab" "aa"


def test_each_token_has_its_kind() -> None:
    assert kinds(STEPS) == BY_HAND


def test_without_leaves_a_draft_that_was_accepted_whole_gives_a_bonus() -> None:
    assert kinds(STEPS.model_copy(update={"whole": []})) == "o" "aaaab" "aac" "c" "o" "aac" "aa"


def test_drafts_of_unknown_length_tell_what_was_accepted() -> None:
    assert kinds(Steps(tokens=[1, 3, 1], accepted=[0, 2, 0])) == "o" "aao" "o"


def test_a_search_chooses_all_of_its_tokens() -> None:
    assert kinds(Steps(tokens=[4], drafted=[16], accepted=[4], whole=[1]), drafts=False) == "ssss"
    assert kinds(Steps(tokens=[1, 1], drafted=[4, 4], accepted=[1, 1], whole=[1, 1]), drafts=False) == "ss"
    assert kinds(Steps(tokens=[1, 1], drafted=[0, 0], accepted=[0, 0]), drafts=False) == "oo", "it compared none"


def test_unknown_steps_tell_nothing() -> None:
    turn = Turn(prompt="", prompt_tokens=1, text="ab", raw="ab", tokens=[1, 2], stop="eos", steps=Steps())
    assert story(turn, True) == {}


def test_the_story_leaves_out_what_is_plain() -> None:
    turn = Turn(prompt="", prompt_tokens=1, text="abc", raw="abc", tokens=[1, 2], ends=[1, 3], stop="eos",
                steps=Steps(tokens=[1, 1], seconds=[0.0123456, 0.5], drafted=[0, 0], accepted=[0, 0]))
    assert story(turn, True) == {"kinds": "oo", "lengths": [1, 2], "ms": [12.3, 500.0]}


def test_milliseconds_have_three_digits() -> None:
    rng = random.Random(0)
    seconds = [0.0, 0.001, 0.9996, 1.0, 9999.0, *(10 ** rng.uniform(-7, 3.9) for _ in range(3000))]
    turn = Turn(prompt="", prompt_tokens=1, text="", raw="", tokens=[1] * len(seconds), stop="eos",
                steps=Steps(tokens=[1] * len(seconds), seconds=seconds))
    assert story(turn, True)["ms"] == [float(f"{1000 * second:.3g}") for second in seconds]
    assert "ms" not in story(turn.model_copy(update={"steps": turn.steps.model_copy(
        update={"seconds": [math.nan] * len(seconds)})}), True)


def test_the_story_tells_the_ranks_of_sampled_tokens() -> None:
    turn = Turn(prompt="", prompt_tokens=1, text="abcd", raw="abcd", tokens=[1, 2, 3, 4], stop="eos",
                ranks=[7, 1, 1, 30],
                steps=Steps(tokens=[1, 3], seconds=[0.5, 0.5], drafted=[0, 2], accepted=[0, 2], whole=[0, 1]))
    told = story(turn, True)
    assert (told["kinds"], told["ranks"]) == ("oaab", [7, 1, 1, 30])
    assert "ranks" not in story(turn.model_copy(update={"ranks": []}), True)
