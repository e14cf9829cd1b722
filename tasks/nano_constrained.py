"""Stories that must contain given words, written by the project for its embedded models.

An opening of `nano_story`, the words, and the reference continuation:

    One summer evening a small girl called Mia was in the park with her quiet friend Tom. ...

    harbor; gently; a while

    Later they left the park and went gently to the harbor. Tom smiled at Mia and said nothing for a while. ...

The words are not in the prompt: only a strategy with lexical constraints receives them. They are two to four words or
phrases of the reference's first sentences that the opening does not contain, so a coherent text with all of them
exists. The headline is the share of words covered times the share of coherent sentences, so neither a list of the words
nor a coherent text without them scores well.
"""

import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.nano.corpus import problems
from harness.nano.problem import Problem
from harness.nano.story_judge import sentences
from harness.nano.story_words import WORDS
from harness.plugins.data import DataSource
from harness.plugins.task import Example, Task

if TYPE_CHECKING:
    from harness.scoring.coverage import CoveredStory

FEWEST, MOST = 2, 4
LONGEST = 45  # words of the reference from which the required ones are taken, so that they fit into the answer
SLOTS = ("time", "pause", "manner", "feeling", "look", "view", "sky", "shade", "sound", "spot", "food", "there", "gain")
PHRASES = tuple(sorted({phrase for slot in SLOTS for phrase in WORDS[slot]}, key=lambda phrase: (-len(phrase), phrase)))
FINDER = re.compile(rf"\b({'|'.join(map(re.escape, PHRASES))})\b")


@dataclass(frozen=True)
class NanoConstrained(Task):
    """150 test openings; the headline is the share of words covered times that of coherent, new sentences."""

    version = 1
    source = "decodebench, harness/nano/corpus.py"
    headline = "covered_sound"
    endless = True
    max_new_tokens = 64

    def examples(self, data: DataSource) -> list[Example]:
        """Return the first 150 test openings of `nano_story` with enough words."""
        candidates = ((story, required_words(story)) for story in problems("story", "test", 160))
        return [Example(id=story.id.replace("story", "constrained"), turns=story.turns,
                        gold={**story.check, "wanted": words})
                for story, words in candidates if len(words) >= FEWEST][:150]

    def wanted(self, example: Example) -> tuple[tuple[str, ...], ...]:
        """Return the words that the answer must contain, each as a clause of its own."""
        return tuple((word,) for word in example.gold["wanted"])

    def metric(self) -> "CoveredStory":
        """Return the metric, which counts the words and checks each sentence against the facts of the story."""
        from harness.scoring.coverage import CoveredStory

        return CoveredStory()


def required_words(story: Problem) -> list[str]:
    """Select two to four words of the reference's first sentences that are not in the opening, deterministically."""
    start = ""
    for sentence in sentences(story.answers[0]):
        if len(f"{start} {sentence}".split()) > LONGEST:
            break
        start += f" {sentence}"
    opening = story.turns[0].lower()
    new = [word for word in dict.fromkeys(FINDER.findall(start)) if word.lower() not in opening]
    rng = random.Random(f"constrained/{story.id}")
    count = min(len(new), rng.randint(FEWEST, MOST))
    return sorted(rng.sample(new, count), key=start.index)
