"""Open-ended stories, long enough to become repetitive or incoherent, for the embedded models.

An opening, and the reference continuation:

    One summer evening a small girl called Mia was in the park with her quiet friend Tom. Mia had a cat called Bo, and
    Tom had a dog called Rex. Mia had a red lamp and wanted to find seven shells.

    Later they left the park and went slowly to the harbor. "I like this place," said Tom, and Mia nodded happily.
    Tom's dog slept under a tree in the harbor. ...

Openings come from `harness.nano.corpus`, from the split that the models were not trained on. Greedy decoding repeats
itself here, and sampling at high temperature contradicts the facts; `fresh` counts sentences that are coherent and new.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.nano.corpus import problems
from harness.plugins.data import DataSource
from harness.plugins.task import Example, Task

if TYPE_CHECKING:
    from harness.scoring.story import StoryText


@dataclass(frozen=True)
class NanoStory(Task):
    """200 test openings; the headline is the share of sentences that are coherent and new."""

    version = 1
    source = "decodebench, harness/nano/corpus.py"
    headline = "fresh"
    endless = True
    max_new_tokens = 192
    open_ended = True

    def examples(self, data: DataSource) -> list[Example]:
        """Return the first 200 test openings."""
        return [Example(id=one.id, turns=one.turns, gold=one.check, reference=one.answers[0])
                for one in problems("story", "test", 200)]

    def metric(self) -> "StoryText":
        """Return the metric, which checks each sentence against the facts of the story."""
        from harness.scoring.story import StoryText

        return StoryText()
