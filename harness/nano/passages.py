"""Short factual sentences about people, places and animals, for passages to correct or to summarise."""

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from harness.nano.words import ADJECTIVES, BOYS, CITIES, GIRLS, GOODS, GROUPS, ITEMS, PLACES, ROLES, split

DAYS = split("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
NUMBERS = split("three four five six seven eight nine ten twelve twenty")
SITES = tuple(word for word in PLACES if word != "island")
ANIMALS = tuple(word for word in GROUPS["animals"] if word != "owl")
WORDS: dict[str, tuple[str, ...]] = {
    "number": NUMBERS,
    "items": ITEMS,
    "good": GOODS,
    "food": split("pear sandwich muffin bagel cookie pie taco bun melon"),
    "place": SITES,
    "city": CITIES,
    "day": DAYS,
    "month": GROUPS["months"],
    "color": tuple(color for color in GROUPS["colors"] if color != "orange"),
    "role": ROLES,
    "tool": tuple(word for word in GROUPS["tools"] if word not in ("pliers", "axe")),
    "instrument": tuple(word for word in GROUPS["instruments"] if word != "organ"),
    "vehicle": GROUPS["vehicles"],
    "vegetable": GROUPS["vegetables"],
    "sport": GROUPS["sports"],
    "look": tuple(word for word in ADJECTIVES if word != "old"),
    "time": split("morning evening afternoon"),
    "weather": split("rain snow wind fog heat"),
}
PERSON = (
    "{it} bought {number} {items} at the {place} in {city} on {day}.",
    "{it} went to the {place} with a {color} {good} in {month}.",
    "{it} has a {look} sister who is a {role} in {city}.",
    "{it} took the {vehicle} to {city} because the {vehicle2} was late.",
    "{it} wrote a long letter to the {role} about the {weather} on {day}.",
    "{it} plays the {instrument} every {time} and the {instrument2} on {day}.",
    "{it} saw two {look} birds near the {place} in the {time}.",
    "{it} gave a {good} and {number} {items} to the {role}.",
    "{it} is a {look} {role} who works in the {place} until {month}.",
    "{it} found a {color} {good} and an old {tool} in the {place}.",
    "{it} ate a {food} and an apple before the {sport} game on {day}.",
    "{it} sold the {color} {vehicle} to a {role} from {city} in {month}.",
    "{it} has lived in {city} for {number} years and likes the {weather}.",
    "{it} lost a {good}, {number} {items} and a key on the way to {city}.",
    "{it} was too tired to carry the {tool} back to the {place}.",
    "{it} grows {vegetable} and {vegetable2} for the people of {city}.",
    "{it} wrote the words {list} in the {time}.",
    "{it} read the words {list} on {day}.",
    "{it} cannot spell {list}.",
    "{it} asked for {list}.",
)
PLACE = (
    "{it} is open from {day} to {day2} and closed in {month}.",
    "{it} has {number} doors, an old bridge and a {color} roof.",
    "{it} was full of {items} after the {weather} in {month}.",
    "{it} is {number} miles from {city} and has a {vehicle} stop.",
    "{it} was built by a {look} {role} from {city} in an hour.",
    "{it} has a small shop where people buy {items} and {items2}.",
    "{it} was closed on {day} because of the {weather}.",
    "{it} is too small for the {sport} games of {month}.",
    "{it} has an organ that a {role} plays every {time}.",
    "{it} was painted {color} by {number} people from {city}.",
    "{it} has two rooms where the {role} and the {role2} work.",
    "{it} is known for the {items} that are sold there in the {time}.",
    "{it} has a sign with the words {list}.",
    "{it} has a map that shows {list}.",
)
ANIMAL = (
    "{it} slept under a {color} {vehicle} all {time} on {day}.",
    "{it} ate {number} {items} and a {food} in the {place}.",
    "{it} has a {color} nose, two {look} eyes and a long tail.",
    "{it} ran to the {place} when the {weather} came in the {time}.",
    "{it} was afraid of the {role} who has a {tool}.",
    "{it} is {number} years old and comes from an island near {city}.",
    "{it} found an egg behind the {vehicle} and took it to the {place}.",
    "{it} was too slow to catch the {color} {good} on {day}.",
    "{it} is the only one in {city} that eats {vegetable} and {items}.",
    "{it} went back to the {place} with a {good} in {month}.",
    "{it} knows the words {list}.",
    "{it} comes when people say {list}.",
)
# Words for {list}: nothing but the text itself tells which one comes next.
LISTED = tuple(sorted({word for options in WORDS.values() for word in options}))
LENGTHS = (4, 9)


class Topic(NamedTuple):
    """A topic of sentences: its name, its form at the start of a sentence, its pronoun and its unused patterns."""

    name: str
    subject: str
    pronoun: str
    patterns: list[str]


def topics(rng: random.Random, count: int) -> list[Topic]:
    """Return `count` different topics."""
    found = [Topic(name, name, "She", shuffled(rng, PERSON)) for name in rng.sample(GIRLS, count)]
    found += [Topic(name, name, "He", shuffled(rng, PERSON)) for name in rng.sample(BOYS, count)]
    found += [Topic(f"the {one}", f"The {one}", "It", shuffled(rng, PLACE)) for one in rng.sample(SITES, count)]
    found += [Topic(f"the {one}", f"The {one}", "It", shuffled(rng, ANIMAL)) for one in rng.sample(ANIMALS, count)]
    return rng.sample(found, count)


def shuffled(rng: random.Random, patterns: Sequence[str]) -> list[str]:
    """Return the patterns in random order."""
    return rng.sample(patterns, len(patterns))


def sentence(rng: random.Random, topic: Topic, pronoun: bool = False, unnamed: Iterable[str] = ()) -> str:
    """Return a sentence about the topic, of a new pattern, with none of the words `unnamed` but its own name."""
    pattern = topic.patterns.pop()
    while True:
        values = {}
        for slot, options in WORDS.items():
            values[slot], values[f"{slot}2"] = rng.sample(options, 2)
        listed = rng.sample(LISTED, rng.randint(*LENGTHS))
        values["list"] = " ".join(listed)
        used = {value for slot, value in values.items() if f"{{{slot}}}" in pattern}
        used |= set(listed if "{list}" in pattern else [])
        if used.isdisjoint(unnamed):
            return pattern.format(it=topic.pronoun if pronoun else topic.subject, **values)
