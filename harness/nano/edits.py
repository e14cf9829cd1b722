"""Copy-editing problems: a passage with faults that are recognisable from the text alone, and its correction."""

import random
import re
from collections.abc import Callable

from harness.nano.misspellings import misspelt
from harness.nano.passages import sentence, topics
from harness.nano.problem import Problem

SENTENCES = (1, 3)
FLAWLESS = 0.08  # share of passages without any fault

# Words that are wrong wherever the passages have the other one.
AGREEMENT = {"is": "are", "has": "have", "was": "were", "works": "work", "likes": "like", "plays": "play"}
FORMS = {
    "bought": "buyed", "went": "goed", "took": "taked", "wrote": "writed", "saw": "seed", "gave": "gived",
    "found": "finded", "ate": "eated", "sold": "selled", "lost": "losed", "slept": "sleeped", "ran": "runned",
    "came": "comed", "built": "builded",
}  # fmt: skip
SOUNDS = {"two": "too", "too": "two", "there": "their", "buy": "by", "eyes": "ice", "hour": "our", "way": "weigh",
          "to": "too", "for": "four", "four": "for"}  # fmt: skip

# What may be spoilt, and how; the right form of each can be told without knowing the passage.
Change = Callable[[random.Random, str], str]
FAULTS: dict[str, tuple[str, Change]] = {
    "doubled word": (r"\b[a-z]+\b", lambda _, word: f"{word} {word}"),
    "swapped letters": (r"\b[a-z]{5,}\b", lambda rng, word: misspelt(rng, word, "swapped")),
    "dropped letter": (r"\b[a-z]{5,}\b", lambda rng, word: misspelt(rng, word, "dropped")),
    "doubled letter": (r"\b[a-z]{5,}\b", lambda rng, word: misspelt(rng, word, "doubled")),
    "article": (r"\ban?\b", lambda _, word: {"a": "an", "an": "a"}[word]),
    "agreement": (rf"\b({'|'.join(AGREEMENT)})\b", lambda _, word: AGREEMENT[word]),
    "verb form": (rf"\b({'|'.join(FORMS)})\b", lambda _, word: FORMS[word]),
    "same sound": (rf"\b({'|'.join(SOUNDS)})\b", lambda _, word: SOUNDS[word]),
    "small letter": (r"\b[A-Z](?=[a-z])", lambda _, letter: letter.lower()),
    "no full stop": (r"\.$", lambda *_: ""),
    "word order": (r"\b(in|at|to|on|near|of) the\b", lambda _, words: " ".join(reversed(words.split()))),
    "missing word": (r"(?<=\b(?:in|at) )the ", lambda *_: ""),
}


def draw(rng: random.Random) -> Problem:
    """Return one random passage to correct: at most one fault in a sentence, so that none hides another."""
    count = rng.randint(*SENTENCES)
    about = topics(rng, 2)
    texts = [sentence(rng, rng.choice(about)) for _ in range(count)]
    right = " ".join(texts)
    if rng.random() >= FLAWLESS:
        for place in rng.sample(range(len(texts)), rng.randint(1, len(texts))):
            texts[place] = spoilt(rng, texts[place])[1]
    return Problem("", (f"Text: {' '.join(texts)}\nCorrected:",), (f" {right}",), {"text": right})


def spoilt(rng: random.Random, text: str) -> tuple[str, str]:
    """Return a kind of fault and the sentence with one fault of this kind."""
    while True:
        kind = rng.choice(list(FAULTS))
        pattern, change = FAULTS[kind]
        found = list(re.finditer(pattern, text))
        if found:
            match = rng.choice(found)
            wrong = text[: match.start()] + change(rng, match.group()) + text[match.end() :]
            if wrong != text:
                return kind, wrong
