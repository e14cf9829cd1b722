"""Data-to-text problems: facts about a restaurant in random order, and one to three sentences that tell them."""

import random
from collections.abc import Callable, Mapping, Sequence

from harness.nano.problem import Problem
from harness.nano.words import split

SLOTS = (2, 8)  # with the name
TRAINED, ASKED = 6, 5  # a model learns from at most so many, and is asked about at least so many

_FIRST = split("Blue Golden Green Happy Little Old Red Silver Sunny Quiet Lucky Wild Royal Brown Small White")
_SECOND = split("Spice Lamp Garden Harbor Kitchen Table Lemon Fox Lion Bell Crown Mill Bridge Cellar Rose Anchor")
NAMES = tuple(f"{first} {second}" for first in _FIRST for second in _SECOND)
NEAR = tuple(f"the {place}" for place in split("museum station market castle library park church theatre"))
FOODS = split("Thai Indian Italian French Chinese Greek Spanish Turkish Mexican Japanese Kenyan Peruvian")
AREAS = ("city centre", "old town", "north quarter", "east quarter", "river quarter", "harbor quarter")
HOURS = tuple(f"{start} to {end}" for start in range(7, 13) for end in range(18, 24))
SEATS = tuple(str(seats) for seats in range(25, 100, 5))

_PRICES = {"low": "cheap", "middle": "moderate", "high": "expensive"}
PHRASES: Mapping[str, Mapping[str, str]] = {  # the pattern of each value, in lower case, by slot
    "food": {food.lower(): food.lower() for food in FOODS},
    "price": _PRICES,
    "area": {area: area for area in AREAS},
    "rating": {str(stars): f"{stars} stars?" for stars in range(1, 6)},
    "family": {"yes": "welcomes? children|for families", "no": "adults only|not for children"},
    "hours": {hours: f"from {hours}" for hours in HOURS},
    "seats": {seats: f"{seats} (?:seats|guests)" for seats in SEATS},
}
VALUES: Mapping[str, Sequence[str]] = {
    "food": FOODS, "price": tuple(_PRICES), "area": AREAS, "rating": tuple(PHRASES["rating"]), "family": ("yes", "no"),
    "near": NEAR, "hours": HOURS, "seats": SEATS,
}

_TOLD: Mapping[str, Callable[[str], tuple[str, str]]] = {  # what comes after "It"
    "rating": lambda value: (f"has {_stars(value)}", f"was given {_stars(value)}"),
    "family": lambda value: (("welcomes children", "is for families") if value == "yes" else
                             ("is for adults only", "is not for children")),
    "hours": lambda value: (f"is open from {value}", f"serves food from {value}"),
    "seats": lambda value: (f"has {value} seats", f"has room for {value} guests"),
}


def draw(rng: random.Random) -> Problem:
    """Return random facts, the name among them, and a text that tells each of them once."""
    names = rng.sample(list(VALUES), rng.randint(*SLOTS) - 1)
    facts = {name: rng.choice(VALUES[name]) for name in names} | {"name": rng.choice(NAMES)}
    order = rng.sample(list(facts), len(facts))
    shown = ", ".join(f"{name}[{facts[name]}]" for name in order)
    return Problem("", (f"Facts: {shown}\nText:",), (f" {told(rng, facts)}",),
                   {"slots": [[name, facts[name]] for name in order]})


def told(rng: random.Random, facts: Mapping[str, str]) -> str:
    """Return one to three sentences that tell these facts: what the place is, and then the rest in random order."""
    kind = " ".join(word for word in (_PRICES.get(facts.get("price", ""), ""), facts.get("food", "")) if word)
    place = f" in the {facts['area']}" if "area" in facts else ""
    place += f" near {facts['near']}" if "near" in facts else ""
    article = "an" if kind[:1].lower() in "aeiou" and kind else "a"
    sentences = [f"{facts['name']} is {article} {kind + ' ' if kind else ''}restaurant{place}."]
    rest = [rng.choice(_TOLD[name](facts[name])) for name in _TOLD if name in facts]
    rng.shuffle(rest)
    for start in range(0, len(rest), 2):
        sentences.append(f"It {' and '.join(rest[start : start + 2])}.")
    return " ".join(sentences)


def wanted(name: str, value: str) -> tuple[str, ...]:
    """Return the phrases of which a text that tells a fact has one."""
    return _TOLD[name](value) if name in _TOLD else (_PRICES[value],) if name == "price" else (value,)


def _stars(value: str) -> str:
    return f"{value} star" if value == "1" else f"{value} stars"


def slots(problem: Problem) -> list[list[str]]:
    """Return the facts of a problem: pairs of name and value, in the order of the prompt."""
    found = problem.check["slots"]
    assert isinstance(found, list)
    return found
