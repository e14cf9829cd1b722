"""Extractive summaries: a text about several people, places and animals, and its sentences about one of them."""

import itertools
import random
import re
from collections.abc import Sequence

from harness.nano.passages import Topic, sentence, topics
from harness.nano.problem import Problem

OTHERS = (1, 3)
PRONOUNS = ("He", "She", "It")
# The blocks of sentences about the topic, and about each other one.
ASKED = ([1], [1], [2], [2], [1, 1], [2, 1])
OTHER = ([1], [1], [2])


def draw(rng: random.Random) -> Problem:
    """Return one random text with a topic.

    The answer is every sentence that starts with the topic's name, and those that follow it directly and start with a
    pronoun instead, in the order of the text. No sentence about something else names the topic.
    """
    chosen = topics(rng, 1 + rng.randint(*OTHERS))
    asked = chosen[0]
    blocks = _blocks(rng, chosen)
    names = tuple(topic.name.removeprefix("the ") for topic in chosen)
    texts: list[tuple[Topic, str]] = []
    for topic, size in blocks:
        texts += [(topic, sentence(rng, topic, place > 0, names)) for place in range(size)]
    right = " ".join(text for topic, text in texts if topic is asked)
    whole = " ".join(text for _, text in texts)
    return Problem("", (f"Text: {whole}\nSummary of {asked.name}:",), (f" {right}",), {"text": right})


def _blocks(rng: random.Random, chosen: list[Topic]) -> list[tuple[Topic, int]]:
    """Return the topics in the order in which the text speaks of them, each with a number of sentences."""
    sizes = [(chosen[0], size) for size in rng.choice(ASKED)]
    sizes += [(topic, size) for topic in chosen[1:] for size in rng.choice(OTHER)]
    while True:
        rng.shuffle(sizes)
        if all(one is not other for (one, _), (other, _) in itertools.pairwise(sizes)):
            return sizes


def summary(sentences: Sequence[str], name: str) -> list[str]:
    """Return the sentences about `name` ("Tom", "the bear"): those that start with it, and the pronouns after them."""
    kept, inside = list[str](), False
    for one in sentences:
        if one.split()[0] not in PRONOUNS:
            inside = one.lower().startswith(f"{name.lower()} ")
        kept += [one] if inside else []
    return kept


def sentences_of(prompt: str) -> tuple[list[str], str]:
    """Return the sentences of the text of a problem, and the name that it asks about."""
    text, _, question = prompt.removeprefix("Text: ").partition("\nSummary of ")
    return re.split(r"(?<=\.) ", text), question.removesuffix(":")
