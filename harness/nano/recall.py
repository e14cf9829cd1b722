"""Texts that ask for one word of the many they have: the word that belongs to a name, or the one in both of two lists.

They test the memory of a model that reads a text once, after Arora et al. 2024 (Just Read Twice, arXiv 2407.05483).
"""

import random
import re
from collections.abc import Sequence

from harness.nano.passages import ANIMALS, LISTED
from harness.nano.problem import Problem
from harness.nano.words import BOYS, GIRLS

NAMES = tuple(name for name in (*GIRLS, *BOYS) if name not in LISTED)  # all but June, which is a month, too
SUBJECTS = (*NAMES, *(f"the {animal}" for animal in ANIMALS))
PAIRS = (8, 16, 32, 64)
SMALL, LARGE = 4, (8, 32)  # words of the two lists


def pairs(size: int, count: int) -> list[Problem]:
    """Return `count` texts with `size` names (at most 74), each with a word of its own, that ask for one of them."""
    rng = random.Random(f"recall/pairs/{size}")
    return [_pairs(rng, size, f"recall/{size}-pairs/{number:03}") for number in range(count)]


def sets(large: int, count: int) -> dict[str, list[Problem]]:
    """Return `count` texts with two lists that share one word, with the list of `SMALL` words first, and then last.

    Texts of the same number have the same lists. The keys say how many words each list has.
    """
    rng = random.Random(f"recall/sets/{large}")
    first, last = f"{SMALL} then {large}", f"{large} then {SMALL}"
    found = dict[str, list[Problem]]({first: [], last: []})
    for number in range(count):
        words, names = rng.sample(LISTED, SMALL + large - 1), rng.sample(NAMES, 2)
        few, many = words[:SMALL], words[SMALL:]
        shared = rng.choice(few)
        many.insert(rng.randrange(large), shared)
        for size, lists in ((first, (few, many)), (last, (many, few))):
            text = " ".join(f"{name} asked for {' '.join(one)}." for name, one in zip(names, lists, strict=True))
            name = f"recall/{size.replace(' ', '-')}/{number:03}"
            found[size].append(_problem(name, f"Text: {text}\nIn both:", f" {shared}", shared, words))
    return found


def first_named(text: str, words: Sequence[str]) -> str | None:
    """Return which of `words` a text names first, in any letter case; None if it names none."""
    known = {word.lower(): word for word in words}
    return next((known[word] for word in re.findall(r"\w+", text.lower()) if word in known), None)


def _pairs(rng: random.Random, size: int, name: str) -> Problem:
    subjects, words = rng.sample(SUBJECTS, size), rng.sample(LISTED, size)
    said = [f"{subject[0].upper()}{subject[1:]} asked for {word}."
            for subject, word in zip(subjects, words, strict=True)]
    asked = rng.randrange(size)
    turn = f"Text: {' '.join(said)}\nSummary of {subjects[asked]}:"
    return _problem(name, turn, f" {said[asked]}", words[asked], words)


def _problem(name: str, turn: str, answer: str, wanted: str, words: Sequence[str]) -> Problem:
    return Problem(name, (turn,), (answer,), {"text": wanted, "words": sorted(words)})
