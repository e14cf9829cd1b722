"""A closed set of passages: right texts of correction problems, and others of the same kind."""

import random
from functools import cache

from harness.nano.corpus import problems
from harness.nano.passages import WORDS, sentence, topics

SLOTS = {word: slot for slot, options in WORDS.items() for word in options}


@cache
def passages(count: int, near: bool = False) -> tuple[str, ...]:
    """Return `count` different passages, the first ones the answers of the test problems of `edit`.

    With `near`, as many again follow: each of them with one word changed to another of its kind.
    """
    rng = random.Random("closed set")
    found = dict.fromkeys(str(one.check["text"]) for one in problems("edit", "test", min(count, 200)))
    while len(found) < count:
        about = topics(rng, 2)
        found[" ".join(sentence(rng, rng.choice(about)) for _ in range(rng.randint(1, 3)))] = None
    for one in tuple(found) if near else ():
        other = one
        while other in found:
            other = _changed(rng, one)
        found[other] = None
    return tuple(found)


def _changed(rng: random.Random, passage: str) -> str:
    """Return a passage with another word of the same kind in place of one."""
    words = passage.split(" ")
    place = rng.choice([i for i, word in enumerate(words) if word.strip(",.") in SLOTS])
    word = words[place].strip(",.")
    words[place] = words[place].replace(word, rng.choice([one for one in WORDS[SLOTS[word]] if one != word]))
    return " ".join(words)
