"""Word problems in GSM8K's format: a question, a solution step by step, and `#### N` at the end."""

import random
from collections.abc import Callable
from typing import NamedTuple

from harness.nano.problem import Problem
from harness.nano.words import BOXES, BOYS, FOODS, GIRLS, GOODS, ITEMS, plural


class Story(NamedTuple):
    """A question, the lines of its solution and the final number."""

    question: str
    steps: list[str]
    answer: int


class Person(NamedTuple):
    """Somebody in a story, with the pronoun that starts a sentence."""

    name: str
    he: str


def draw(rng: random.Random) -> Problem:
    """Return one random word problem."""
    story = rng.choice(STORIES)(rng)
    answer = " " + "\n".join([*story.steps, f"#### {story.answer}"])
    return Problem("", (f"Question: {story.question}\nAnswer:",), (answer,), {"answer": str(story.answer)})


def people(rng: random.Random, count: int) -> list[Person]:
    """Return `count` different people."""
    chosen = rng.sample([(name, "She") for name in GIRLS] + [(name, "He") for name in BOYS], count)
    return [Person(*one) for one in chosen]


def _events(rng: random.Random) -> Story:
    (who, friend), items, have = people(rng, 2), rng.choice(ITEMS), rng.randint(5, 60)
    text = [f"{who.name} {rng.choice(['has', 'starts with', 'owns'])} {have} {items}."]
    steps = []
    for _ in range(rng.randint(1, 4)):
        if have > 8 and rng.random() < 0.5:
            change = rng.randint(2, have - 3)
            verb = rng.choice([f"gives {{}} to {friend.name}", "loses {}", "sells {}", "throws away {}"])
            steps.append(f"Then {who.name} has {have} - {change} = {have - change} {items}.")
            have -= change
        else:
            change = rng.randint(2, 40)
            verb = rng.choice(["buys {} more", "finds {}", f"gets {{}} from {friend.name}", "wins {}"])
            steps.append(f"Then {who.name} has {have} + {change} = {have + change} {items}.")
            have += change
        text.append(f"{rng.choice([who.he, 'Then ' + who.he.lower()])} {verb.format(change)}.")
    text.append(f"How many {items} does {who.name} have {rng.choice(['now', 'in the end', 'at the end'])}?")
    return Story(" ".join(text), steps, have)


def _boxes(rng: random.Random) -> Story:
    who, items, boxes = people(rng, 1)[0], rng.choice(ITEMS), rng.choice(BOXES)
    count, each = rng.randint(2, 12), rng.randint(2, 12)
    total, gone = count * each, rng.randint(1, count * each - 1)
    reason = rng.choice(["are broken", "get lost", "are sold", "are given away"])
    text = rng.choice(
        [
            f"There are {count} {boxes} with {each} {items} in each. {gone} of the {items} {reason}.",
            f"{who.name} has {count} {boxes}. Each holds {each} {items}. Later {gone} {items} {reason}.",
        ]
    )
    steps = [
        f"There are {count} * {each} = {total} {items} in all.",
        f"After that {total} - {gone} = {total - gone} {items} are left.",
    ]
    return Story(f"{text} How many {items} are left?", steps, total - gone)


def _shopping(rng: random.Random) -> Story:
    who, (one, two) = people(rng, 1)[0], rng.sample(GOODS, 2)
    (n, p), (m, q) = [(rng.randint(2, 9), rng.randint(2, 12)) for _ in range(2)]
    total = n * p + m * q
    text = rng.choice(
        [
            f"{who.name} buys {n} {plural(one)} at ${p} each and {m} {plural(two)} at ${q} each.",
            f"A {one} costs ${p} and a {two} costs ${q}. {who.name} buys {n} {plural(one)} and {m} {plural(two)}.",
        ]
    )
    ask = rng.choice([f"How much does {who.name} pay in total?", "What is the total cost in dollars?"])
    steps = [
        f"The {plural(one)} cost {n} * {p} = {n * p} dollars.",
        f"The {plural(two)} cost {m} * {q} = {m * q} dollars.",
        f"In total that is {n * p} + {m * q} = {total} dollars.",
    ]
    return Story(f"{text} {ask}", steps, total)


def _change(rng: random.Random) -> Story:
    who, food = people(rng, 1)[0], rng.choice(FOODS)
    count, price = rng.randint(2, 9), rng.randint(2, 9)
    paid = rng.choice([note for note in (20, 50, 100) if note > count * price])
    text = f"{who.name} buys {count} {plural(food)} for ${price} each and pays with a ${paid} bill."
    ask = rng.choice([f"How much change does {who.name} get?", "How many dollars come back?"])
    steps = [
        f"The {plural(food)} cost {count} * {price} = {count * price} dollars.",
        f"The change is {paid} - {count * price} = {paid - count * price} dollars.",
    ]
    return Story(f"{text} {ask}", steps, paid - count * price)


def _times_as_many(rng: random.Random) -> Story:
    (a, b), items, have = people(rng, 2), rng.choice(ITEMS), rng.randint(3, 30)
    times, word = rng.choice([(2, "twice"), (3, "3 times"), (4, "4 times"), (5, "5 times")])
    theirs = times * have
    steps = [f"{b.name} has {times} * {have} = {theirs} {items}."]
    text = f"{a.name} has {have} {items}. {b.name} has {word} as many."
    if rng.random() < 0.3:
        return Story(f"{text} How many {items} does {b.name} have?", steps, theirs)
    if rng.random() < 0.4:
        steps.append(f"That is {theirs} - {have} = {theirs - have} more than {a.name}.")
        return Story(f"{text} How many more {items} does {b.name} have than {a.name}?", steps, theirs - have)
    steps.append(f"Together they have {have} + {theirs} = {have + theirs} {items}.")
    return Story(f"{text} How many {items} do they have together?", steps, have + theirs)


def _more_and_fewer(rng: random.Random) -> Story:
    (a, b, c), items = people(rng, 3), rng.choice(ITEMS)
    have, more = rng.randint(10, 50), rng.randint(2, 30)
    fewer = rng.randint(2, have - 1)
    second, third = have + more, have + more - fewer
    steps = [
        f"{b.name} has {have} + {more} = {second} {items}.",
        f"{c.name} has {second} - {fewer} = {third} {items}.",
    ]
    text = f"{a.name} has {have} {items}. {b.name} has {more} more than {a.name}."
    text += f" {c.name} has {fewer} fewer than {b.name}."
    if rng.random() < 0.5:
        return Story(f"{text} How many {items} does {c.name} have?", steps, third)
    steps.append(f"{a.name} and {c.name} have {have} + {third} = {have + third} {items}.")
    return Story(f"{text} How many {items} do {a.name} and {c.name} have together?", steps, have + third)


def _sharing(rng: random.Random) -> Story:
    who, items = people(rng, 1)[0], rng.choice(ITEMS)
    friends, share = rng.randint(2, 9), rng.randint(2, 12)
    total = friends * share
    extra = rng.randint(2, total - 1)
    bought = total - extra
    text = f"{who.name} has {bought} {items} and {rng.choice(['buys', 'finds', 'gets'])} {extra} more."
    text += f" {who.he} shares them equally among {friends} friends. How many {items} does each friend get?"
    steps = [
        f"{who.name} has {bought} + {extra} = {total} {items}.",
        f"Each friend gets {total} / {friends} = {share} {items}.",
    ]
    return Story(text, steps, share)


def _reading(rng: random.Random) -> Story:
    who, days, pages = people(rng, 1)[0], rng.randint(2, 9), rng.randint(5, 20)
    done = days * pages
    size = done + rng.randint(5, 90)
    thing, verb = rng.choice([("pages", "reads"), ("lines", "copies"), ("words", "learns")])
    text = rng.choice(
        [
            f"A book has {size} {thing}. {who.name} {verb} {pages} {thing} a day for {days} days.",
            f"{who.name} {verb} {pages} {thing} each day. The book has {size} {thing} and {days} days are over.",
        ]
    )
    steps = [
        f"In {days} days that is {days} * {pages} = {done} {thing}.",
        f"There are {size} - {done} = {size - done} {thing} left.",
    ]
    return Story(f"{text} How many {thing} are left?", steps, size - done)


def _wages(rng: random.Random) -> Story:
    who, wage = people(rng, 1)[0], rng.randint(6, 15)
    first, second = rng.randint(2, 8), rng.randint(2, 8)
    hours, earned = first + second, (first + second) * wage
    spent = rng.randint(5, earned - 5)
    text = f"{who.name} earns ${wage} an hour. {who.he} works {first} hours on Monday and {second} hours on Friday."
    steps = [f"{who.name} works {first} + {second} = {hours} hours.", f"That pays {hours} * {wage} = {earned} dollars."]
    if rng.random() < 0.5:
        return Story(f"{text} How much does {who.name} earn?", steps, earned)
    steps.append(f"After spending there are {earned} - {spent} = {earned - spent} dollars left.")
    thing = rng.choice(GOODS)
    text += f" Then {who.he.lower()} spends ${spent} on a {thing}. How many dollars are left?"
    return Story(text, steps, earned - spent)


def _ages(rng: random.Random) -> Story:
    (a, b), age, gap, years = people(rng, 2), rng.randint(8, 50), rng.randint(2, 25), rng.randint(2, 20)
    if gap < age - 2 and rng.random() < 0.5:
        now, sign, word = age - gap, "-", "younger"
    else:
        now, sign, word = age + gap, "+", "older"
    text = f"{a.name} is {age} years old. {b.name} is {gap} years {word} than {a.name}."
    steps = [f"{b.name} is {age} {sign} {gap} = {now} years old."]
    steps.append(f"In {years} years {b.name} will be {now} + {years} = {now + years} years old.")
    return Story(f"{text} How old will {b.name} be in {years} years?", steps, now + years)


def _rectangle(rng: random.Random) -> Story:
    who, thing = people(rng, 1)[0], rng.choice(["garden", "field", "room", "yard", "park", "playground"])
    long, wide = rng.randint(3, 20), rng.randint(2, 12)
    text = f"{who.name} has a {thing} that is {long} meters long and {wide} meters wide."
    if rng.random() < 0.5:
        return Story(f"{text} What is its area?", [f"The area is {long} * {wide} = {long * wide}."], long * wide)
    half = long + wide
    steps = [f"Two sides make {long} + {wide} = {half} meters.", f"All sides make 2 * {half} = {2 * half} meters."]
    return Story(f"{text} {rng.choice(['How long is a fence around it?', 'What is its perimeter?'])}", steps, 2 * half)


def _fractions(rng: random.Random) -> Story:
    items, (part, word) = rng.choice(ITEMS), rng.choice([(2, "Half"), (3, "A third"), (4, "A quarter"), (5, "A fifth")])
    share = rng.randint(3, 20)
    total = part * share
    blue = rng.randint(1, total - share - 1)
    rest = total - share
    red, other = rng.sample(["red", "blue", "green", "white", "black", "yellow"], 2)
    text = f"There are {total} {items}. {word} of them are {red}, {blue} are {other} and the rest are brown."
    steps = [
        f"There are {total} / {part} = {share} {red} {items}.",
        f"That leaves {total} - {share} = {rest} {items}.",
        f"So {rest} - {blue} = {rest - blue} {items} are brown.",
    ]
    return Story(f"{text} How many {items} are brown?", steps, rest - blue)


def _travel(rng: random.Random) -> Story:
    who, machine = people(rng, 1)[0], rng.choice(["drives", "rides", "sails", "travels"])
    (h1, v1), (h2, v2) = [(rng.randint(2, 6), rng.randint(5, 25)) for _ in range(2)]
    text = f"{who.name} {machine} {h1} hours at {v1} km per hour and then {h2} hours at {v2} km per hour."
    steps = [
        f"The first part is {h1} * {v1} = {h1 * v1} km.",
        f"The second part is {h2} * {v2} = {h2 * v2} km.",
        f"The whole way is {h1 * v1} + {h2 * v2} = {h1 * v1 + h2 * v2} km.",
    ]
    return Story(f"{text} How far is that in all?", steps, h1 * v1 + h2 * v2)


def _saving(rng: random.Random) -> Story:
    who, thing, weeks, rate = people(rng, 1)[0], rng.choice(GOODS), rng.randint(2, 12), rng.randint(2, 12)
    has = rng.randint(3, 60)
    missing, price = weeks * rate, weeks * rate + has
    text = rng.choice(
        [
            f"{who.name} wants a {thing} that costs ${price}. {who.he} has ${has} and saves ${rate} a week.",
            f"A {thing} costs ${price}. {who.name} already has ${has} and puts away ${rate} every week.",
        ]
    )
    steps = [
        f"{who.name} still needs {price} - {has} = {missing} dollars.",
        f"That takes {missing} / {rate} = {weeks} weeks.",
    ]
    return Story(f"{text} How many weeks does {who.name} need?", steps, weeks)


def _baking(rng: random.Random) -> Story:
    who, food, size, bags = people(rng, 1)[0], rng.choice(FOODS), rng.randint(2, 9), rng.randint(2, 9)
    eaten = rng.randint(1, 12)
    left, made = size * bags, size * bags + eaten
    text = f"{who.name} makes {made} {plural(food)} and eats {eaten}. {who.he} packs the rest in bags of {size}."
    if eaten == 1:
        text = text.replace("eats 1.", "eats one.")
    steps = [
        f"There are {made} - {eaten} = {left} {plural(food)} to pack.",
        f"They fill {left} / {size} = {bags} bags.",
    ]
    return Story(f"{text} How many bags does {who.name} fill?", steps, bags)


def _seats(rng: random.Random) -> Story:
    (rows, seats), (extra, more) = [(rng.randint(3, 12), rng.randint(4, 12)) for _ in range(2)]
    place = rng.choice(["hall", "theater", "cinema", "stadium", "church", "school"])
    first, second = rows * seats, extra * more
    text = f"A {place} has {rows} rows of {seats} seats downstairs and {extra} rows of {more} seats upstairs."
    steps = [
        f"Downstairs there are {rows} * {seats} = {first} seats.",
        f"Upstairs there are {extra} * {more} = {second} seats.",
        f"In all there are {first} + {second} = {first + second} seats.",
    ]
    if rng.random() < 0.5:
        return Story(f"{text} How many seats are there?", steps, first + second)
    empty = rng.randint(2, min(50, first + second - 1))
    taken = first + second - empty
    steps.append(f"So {first + second} - {empty} = {taken} seats are taken.")
    return Story(f"{text} {empty} seats are empty. How many seats are taken?", steps, taken)


def _average(rng: random.Random) -> Story:
    who, mean = people(rng, 1)[0], rng.randint(9, 30)
    a, b = rng.randint(2, mean + 4), rng.randint(2, mean + 4)
    c = 3 * mean - a - b
    what = rng.choice(["points", "goals", "fish", "tickets", "miles"])
    verb = rng.choice(["gets", "scores", "counts"])
    text = f"{who.name} {verb} {a} {what} on Monday, {b} on Tuesday and {c} on Friday."
    steps = [
        f"The first two days make {a} + {b} = {a + b} {what}.",
        f"All three days make {a + b} + {c} = {3 * mean} {what}.",
        f"The average is {3 * mean} / 3 = {mean} {what}.",
    ]
    return Story(f"{text} What is the average per day?", steps, mean)


STORIES: tuple[Callable[[random.Random], Story], ...] = (
    _events,
    _events,
    _boxes,
    _shopping,
    _change,
    _times_as_many,
    _more_and_fewer,
    _sharing,
    _reading,
    _wages,
    _ages,
    _rectangle,
    _fractions,
    _travel,
    _saving,
    _baking,
    _seats,
    _average,
)
