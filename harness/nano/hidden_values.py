"""Numbers and variables to hide in long texts for any model, the questions that ask for them, and the noise around."""

import random
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from harness.nano.passages import sentence, topics
from harness.nano.words import ADJECTIVES, GOODS

KINDS = ("single", "multikey", "multivalue", "multiquery", "tracking", "passkey")
AT_ONE_PLACE = ("single", "multikey", "passkey")  # kinds that ask for one needle, the first
SEVERAL = 4  # keys, values or hops
REPEATED = ("The road is long and dry.", "The hills are low.", "A bird sings on the fence.", "We walk on.",
            "The evening is near.")
POOL = 4000  # sentences of varied noise
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Puzzle(NamedTuple):
    """Needles (the asked one first if only one is), what stands before and behind the text, and the values asked for.

    `start` is the start of the answer, for models that continue a text.
    """

    needles: Sequence[str]
    before: str
    question: str
    start: str
    values: Sequence[str]

    def text(self, noise: Sequence[str], at: Sequence[float]) -> str:
        """Return the noise with each needle at its place, 0 to 1; needles at the same place keep their order."""
        pieces = list(noise)
        placed = sorted(zip(at, self.needles, strict=True), key=lambda one: one[0])
        for place, needle in placed[::-1]:
            pieces.insert(round(place * len(noise)), needle)
        return " ".join(pieces)


def drawn(kind: str, rng: random.Random) -> Puzzle:
    """Return a random puzzle of one of `KINDS`."""
    return _passkey(rng) if kind == "passkey" else _tracking(rng) if kind == "tracking" else _numbers(rng, kind)


def places(kind: str, depth: float, needles: int, rng: random.Random) -> list[float]:
    """Return the places of the needles: `depth` for the only one asked for, else random; those of a chain rise."""
    if kind in AT_ONE_PLACE:
        return [depth, *(rng.random() for _ in range(needles - 1))]
    return sorted(rng.random() for _ in range(needles))


@cache
def noise(kind: str) -> Sequence[str]:
    """Return `repeated` or `varied` sentences, to be repeated without end."""
    rng = random.Random("hidden values/noise")
    return REPEATED if kind == "repeated" else [sentence(rng, topics(rng, 1)[0]) for _ in range(POOL)]


def _numbers(rng: random.Random, kind: str) -> Puzzle:
    keys = list(dict.fromkeys(f"{rng.choice(ADJECTIVES)}-{rng.choice(GOODS)}" for _ in range(99)))
    keys = keys[:SEVERAL if kind in ("multikey", "multiquery") else 1]
    pairs = [(key, str(rng.randrange(10**6, 10**7))) for key in keys * (SEVERAL if kind == "multivalue" else 1)]
    asked = keys[:1] if kind == "multikey" else keys
    values = [value for key, value in pairs if key in asked]
    of = f"{', '.join(asked[:-1])} and {asked[-1]}" if len(asked) > 1 else asked[0]
    needles = [f"{'A' if kind == 'multivalue' else 'The'} secret number of {key} is {value}." for key, value in pairs]
    if len(values) == 1:
        return Puzzle(needles, "A number is hidden in the following text. Remember it, because it is asked for "
                      "afterwards.", f"What is the secret number of {of}?", f"The secret number of {of} is", values)
    return Puzzle(needles, "Some numbers are hidden in the following text. Remember them, because they are asked for "
                  "afterwards.", f"What are all the secret numbers of {of}?", f"The secret numbers of {of} are", values)


def _passkey(rng: random.Random) -> Puzzle:
    key = str(rng.randint(1, 50_000))
    return Puzzle([f"The pass key is {key}. Keep {key} in mind, it is the pass key."],
                  "A pass key is hidden in the following text. It is asked for afterwards.", "What is the pass key?",
                  "The pass key is", [key])


def _tracking(rng: random.Random) -> Puzzle:
    names = list(dict.fromkeys("".join(rng.sample(LETTERS, 5)) for _ in range(99)))[:SEVERAL + 1]
    value = str(rng.randrange(10_000, 100_000))
    before = [value, *(f"VAR {name}" for name in names)]
    return Puzzle([f"VAR {name} = {earlier}." for name, earlier in zip(names, before, strict=False)],
                  "Variables are assigned in the following text. Remember their values.",
                  f"Which variables have the value {value}, directly or through others?",
                  f"The {len(names)} variables with the value {value} are", names)
