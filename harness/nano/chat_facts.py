"""Chats about facts: reading a short text, science, and the humanities."""

import random

from harness.nano.chat_turns import Turn, about_list, naming
from harness.nano.rules import Rule
from harness.nano.words import (
    BOYS,
    CITIES,
    COUNTRIES,
    CREATURES,
    ELEMENTS,
    FOODS,
    GIRLS,
    GOODS,
    UNITS,
    plural,
    with_article,
)

SHORT = ("Answer with one word.", "One word, please.", "Use only one word.")


def extraction(rng: random.Random) -> tuple[Turn, Turn]:
    """Return a chat about the facts of a short text."""
    (one, two), (city, town) = rng.sample(GIRLS + BOYS, 2), rng.sample(CITIES, 2)
    goods, food, count, price = rng.choice(GOODS), rng.choice(FOODS), rng.randint(2, 20), rng.randint(10, 99)
    text = rng.choice(
        [
            f"{one} from {city} met {two} from {town}. {one} bought {count} {plural(goods)} for ${price}.",
            f"In {city}, {one} sold {count} {plural(goods)} to {two} for ${price}, who took them home to {town}.",
            f"{two} from {town} likes {plural(food)}. {one} from {city} has {count} {plural(goods)} for ${price}.",
        ]
    )
    asks: list[tuple[str, str]] = [
        (f"Which city is named with {one}? {rng.choice(SHORT)}", city),
        (f"Which city is named with {two}? {rng.choice(SHORT)}", town),
        (f"How many {plural(goods)} are there? Answer with the number only.", str(count)),
        ("Which price in dollars is given? Answer with the number only.", str(price)),
    ]
    (ask, answer), (then, other) = rng.sample(asks, 2)
    first = Turn(f"Read this text: {text} {ask}", answer, _equals(answer))
    if rng.random() < 0.3:
        rule: Rule = {"kind": "items", "count": 2, "separator": ",", "among": [one, two]}
        people = [one, two] if text.index(one) < text.index(two) else [two, one]
        return first, Turn("List the two people in the text, separated by a comma.", ", ".join(people), rule)
    return first, Turn(then, other, _equals(other))


def stem(rng: random.Random) -> tuple[Turn, Turn]:
    """Return a chat about chemistry, units or animals."""
    return rng.choice([_elements, _units, _units, _legs, _lists])(rng)


def _elements(rng: random.Random) -> tuple[Turn, Turn]:
    turns = []
    for place, name in enumerate(rng.sample(sorted(ELEMENTS), 2)):
        symbol, state = ELEMENTS[name]
        ask, answer = rng.choice(
            [
                (f"What is the chemical symbol of {name}?", symbol),
                (f"Is {name} a solid, a liquid or a gas at room temperature? {rng.choice(SHORT)}", state),
                (f"Which element has the symbol {symbol}? {rng.choice(SHORT)}", name),
            ]
        )
        turns.append(Turn(f"And {ask[0].lower()}{ask[1:]}" if place else ask, answer, _equals(answer)))
    return turns[0], turns[1]


def _units(rng: random.Random) -> tuple[Turn, Turn]:
    large, small, size = rng.choice(UNITS)
    one, two = rng.sample(range(2, 21), 2)
    ask = rng.choice([f"How many {small} are in {one} {large}?", f"Convert {one} {large} to {small}."])
    end = rng.choice([" Answer with the number only.", " Give only the number."])
    rule: Rule = {"kind": "number", "value": one * size}
    second = rng.choice([f"And in {two} {large}?", f"And how many are in {two} {large}?"])
    then: Rule = {"kind": "number", "value": two * size}
    return Turn(ask + end, str(one * size), rule), Turn(second, str(two * size), then)


def _legs(rng: random.Random) -> tuple[Turn, Turn]:
    animal, count = rng.choice(sorted(CREATURES)), rng.randint(2, 9)
    legs, home = CREATURES[animal]
    rule: Rule = {"kind": "number", "value": legs}
    first = Turn(f"How many legs does {with_article(animal)} have? Answer with the number only.", str(legs), rule)
    if rng.random() < 0.3:
        ask = f"Does {with_article(animal)} live on land or in the sea? {rng.choice(SHORT)}"
        return first, Turn(ask, home, _equals(home))
    rule = {"kind": "previous_number", "operator": "*", "by": count}
    return first, Turn(f"And how many legs do {count} of them have?", str(legs * count), rule)


def _lists(rng: random.Random) -> tuple[Turn, Turn]:
    group = rng.choice(["animals", "planets", "metals", "fruits", "vegetables", "tools"])
    first = naming(rng, group)
    return first, about_list(rng, group, first.answer)


def humanities(rng: random.Random) -> tuple[Turn, Turn]:
    """Return a chat about countries, or about a list of them."""
    if rng.random() < 0.4:
        group = rng.choice(["countries", "months", "instruments", "sports", "vehicles", "colors"])
        first = naming(rng, group)
        return first, about_list(rng, group, first.answer)
    turns = []
    for place, country in enumerate(rng.sample(sorted(COUNTRIES), 2)):
        capital, continent, language = COUNTRIES[country]
        ask, answer = rng.choice(
            [
                (f"What is the capital of {country}?", capital),
                (f"On which continent is {country}?", continent),
                (f"Which language do most people in {country} speak?", language),
                (f"Of which country is {capital} the capital?", country),
            ]
        )
        end = rng.choice(SHORT)
        turns.append(Turn(f"And {ask[0].lower()}{ask[1:]}" if place else f"{ask} {end}", answer, _equals(answer)))
    return turns[0], turns[1]


def _equals(text: str) -> Rule:
    return {"kind": "equals", "text": text}
