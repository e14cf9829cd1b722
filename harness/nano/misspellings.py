"""Misspellings of words that have exactly one correction among the words of the passages."""

import functools
import random
import re

from harness.nano.passages import ANIMAL, ANIMALS, PERSON, PLACE, WORDS

KINDS = ("swapped", "dropped", "doubled")


def misspelt(rng: random.Random, word: str, kind: str) -> str:
    """Return the word with one slip of the kind, or unchanged if every such slip is ambiguous."""
    return rng.choice(_slips().get((word, kind), [word]))


@functools.cache
def _slips() -> dict[tuple[str, str], list[str]]:
    """Return the unambiguous slips of every word, by word and kind."""
    known = _lexicon()
    sources: dict[str, set[str]] = {}
    for word in known:
        for slip in (one for kind in KINDS for one in _all(word, kind)):
            sources.setdefault(slip, set()).add(word)
    return {
        (word, kind): sure
        for word in sorted(known)
        for kind in KINDS
        if (sure := [slip for slip in _all(word, kind) if len(sources[slip]) == 1 and slip not in known])
    }


def _all(word: str, kind: str) -> list[str]:
    """Return the slips of a kind at every place but the first and last letter."""
    inner = range(1, len(word) - 1)
    return {
        "swapped": [word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in inner if word[i] != word[i + 1]],
        "dropped": [word[:i] + word[i + 1 :] for i in inner if word[i] != word[i + 1]],
        "doubled": [word[: i + 1] + word[i:] for i in inner if word[i] not in (word[i - 1], word[i + 1])],
    }[kind]


def _lexicon() -> set[str]:
    texts = [*PERSON, *PLACE, *ANIMAL, *ANIMALS, *(word for words in WORDS.values() for word in words)]
    return {word for text in texts for word in re.findall(r"(?<![{\w])[a-z]+(?![}\w])", text)}
