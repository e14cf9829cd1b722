"""Short chats of two turns with a rule for each answer, written by the project for its embedded models.

A problem, and its reference answers:

    user: Write a sentence about a dog that starts with the word Once.
    assistant: Once a small dog ran home.
    user: Please write it in upper case.
    assistant: ONCE A SMALL DOG RAN HOME.

Problems come from `harness.nano.corpus`, from the split that the models were not trained on, in the categories of
MT-Bench. Rules are checked by `harness.nano.rules`; a rule of the second turn may be about the model's first answer.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.nano.corpus import problems
from harness.plugins.data import DataSource
from harness.plugins.task import Example, Task

if TYPE_CHECKING:
    from harness.scoring.metrics import FollowsRules


@dataclass(frozen=True)
class NanoChat(Task):
    """200 test problems; the headline is the share of turns whose answer follows its rule."""

    version = 1
    source = "decodebench, harness/nano/corpus.py"
    headline = "follows"
    max_new_tokens = 96
    chat = True

    def examples(self, data: DataSource) -> list[Example]:
        """Return the first 200 test problems."""
        return [
            Example(id=problem.id, turns=problem.turns, gold=problem.check, category=str(problem.check["category"]))
            for problem in problems("chat", "test", 200)
        ]

    def metric(self) -> "FollowsRules":
        """Return the metric, which checks each answer against its rule."""
        from harness.scoring.metrics import FollowsRules

        return FollowsRules()
