"""The state of a story at one point, and the values that a sentence may give to its slots.

The name of a slot says what may fill it. Slots that end with the same digit (or with none) speak of one person:
`{who}'s {animal}` is a person with that person's animal, `{who2}` somebody else. Nobody needs to be named for that:
`The {job}'s {animal}` is the animal of whoever has that job.
"""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from harness.nano.story_words import ANIMALS, HERE, JOBS, KINDS, NAMES, PETS, PRONOUNS, THINGS

Values = dict[str, str]
T = TypeVar("T")

PERSON = ("who", "job", "pet", "animal")
GOAL = ("number", "items")
SONG = ("tone", "sea", "mood", "land")
_SHARES = tuple(itertools.accumulate(1 / (place + 12) for place in range(400)))


@dataclass
class State:
    """The current place, the cast (`PERSON`; "" for what one has not), things, the hero's goal and the song.

    The hero comes first in the cast. A thing is its holder, its name and its color.
    """

    place: str
    cast: list[list[str]]
    things: list[list[str]]
    goal: list[str]
    song: list[str]

    @classmethod
    def of(cls, check: Mapping[str, Any]) -> "State":
        """Return the state that `check` describes, as a copy."""
        cast, things = ([list(row) for row in check[name]] for name in ("cast", "things"))
        return cls(str(check["place"]), cast, things, list(check["goal"]), list(check["song"]))

    def check(self) -> dict[str, object]:
        """Return the state as JSON."""
        return asdict(self)

    def people(self) -> list[Values]:
        """Return the facts about each person, by slot; one entry for each thing that the person has."""
        found = []
        for number, person in enumerate(self.cast):
            name = person[0]
            facts = {"here": self.place, "kind": KINDS[name], **PRONOUNS[KINDS[name]]}
            facts |= {slot: value for slot, value in zip(PERSON, person, strict=True) if value}
            facts |= dict(zip(SONG, self.song, strict=False))
            if number == 0:
                facts |= dict(zip(GOAL, self.goal, strict=False))
            held = [{"thing": thing, "color": color} for holder, thing, color in self.things if holder == name]
            found += [facts | one for one in held or [{}]]
        return found

    def tell(self, values: Values) -> None:
        """Update the state with a sentence that has these values."""
        if "there" in values:
            self.place = values["there"]
        if "new" in values:
            self.cast.append([values["new"], *(values.get(f"new{slot}", "") for slot in PERSON[1:])])
        if "gain" in values:
            self.things.append([values["who"], values["gain"], values["hue"]])
        if "taker" in values:
            for one in self.things:
                if one[1] == values["thing"]:
                    one[0] = values["taker"]


def _unused(words: Sequence[str], column: int) -> Callable[[State, Values], list[str]]:
    return lambda state, _: [word for word in words if word not in {person[column] for person in state.cast}]


# Slots whose sentence changes the story, with what they may hold.
CHANGES: dict[str, Callable[[State, Values], list[str]]] = {
    "there": lambda state, _: [place for place in HERE if place != state.place],
    "gain": lambda state, _: [thing for thing in THINGS if thing not in {one[1] for one in state.things}],
    "taker": lambda state, values: [person[0] for person in state.cast if person[0] != values["who"]],
    "new": _unused(NAMES, 0),
    "newkind": lambda _, values: [KINDS[values["new"]]],
    "newjob": _unused(JOBS, 1),
    "newpet": _unused(PETS, 2),
    "newanimal": _unused(ANIMALS, 3),
}


def skewed(rng: random.Random, options: Sequence[T]) -> T:
    """Return a random option, the n-th with a weight of 1 / (n + 2): a few are common, most are rare."""
    return rng.choices(options, cum_weights=_SHARES[: len(options)])[0]
