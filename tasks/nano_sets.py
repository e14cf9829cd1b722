"""Texts whose sentences may stand in any order, written by the project for its embedded models.

A problem, in two of its six orders, and the reference answer to each:

    Text: Tom found a brown hat in the village. The museum was closed on Saturday. Adam has nine toys. Mia sang.
    Summary of Tom: Tom found a brown hat in the village.

    Text: Mia sang. Adam has nine toys. The museum was closed on Saturday. Tom found a brown hat in the village.
    Summary of Tom: Tom found a brown hat in the village.

The sentences are those of a test problem of `nano_summary` that start with a name, the first one only about the
subject, so every order has the same answer. Each order is a turn with a prompt of its own: forward, reversed, and four
random ones. A strategy for sets, such as Set-Based Prompting (McIlroy-Young et al. 2024, arXiv:2406.06581), gets the
sentences as `RequestText.parts`, and must give one answer only.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.nano.corpus import problems
from harness.nano.problem import Problem
from harness.nano.summaries import PRONOUNS, sentences_of, summary
from harness.plugins.data import DataSource
from harness.plugins.prompt_parts import PromptParts, orders, places
from harness.plugins.task import Example, Task

if TYPE_CHECKING:
    from harness.scoring.copying import SameAnswers

FEWEST, ORDERS = 3, 6


@dataclass(frozen=True)
class NanoSets(Task):
    """100 sets of sentences; the headline is the share of orders with the right answer, `distinct` counts answers."""

    version = 1
    source = "decodebench, harness/nano/corpus.py"
    headline = "exact"
    max_new_tokens = 64
    stop = ("\n",)

    def examples(self, data: DataSource) -> list[Example]:
        """Return the first 100 sets of at least three sentences."""
        made = (_example(problem) for problem in problems("summary", "test", 200))
        return list(itertools.islice((one for one in made if one), 100))

    def parts(self, example: Example, answers: Sequence[str]) -> PromptParts:
        """Return where the sentences of this turn are; each has a blank before it."""
        return PromptParts(members=places(example.turns[len(answers)], example.gold["members"]))

    def metric(self) -> "SameAnswers":
        """Return the metric, which compares the answers with each other and with the reference."""
        from harness.scoring.copying import SameAnswers

        return SameAnswers()


def _example(problem: Problem) -> Example | None:
    """Return a problem in all its orders, None if it has too few sentences."""
    said, name = sentences_of(problem.turns[0])
    named = [one for one in said if one.split()[0] not in PRONOUNS]
    about = summary(named, name)
    members = [one for one in named if one not in about[1:]]
    if len(members) < FEWEST:
        return None
    return Example(id=problem.id.replace("summary", "sets"), gold={"text": about[0], "members": members},
                   turns=tuple(f"Text: {' '.join(order)}\nSummary of {name}:"
                               for order in orders(members, ORDERS, f"sets/{problem.id}")))
