"""Chats about reasoning, arithmetic and code."""

import random

from harness.nano.chat_turns import Turn, about_list, both, naming, polite
from harness.nano.rules import Rule
from harness.nano.words import BOYS, GIRLS, GROUPS, split

COMPARISONS = (("taller", "tallest", "shortest"), ("older", "oldest", "youngest"), ("faster", "fastest", "slowest"))
NAMES = split("total count value result score size limit price number index")


def reasoning(rng: random.Random) -> tuple[Turn, Turn]:
    """Return a chat with an order of people, an odd one out, or a row of numbers."""
    return rng.choice([_order, _odd_one_out, _series])(rng)


def _order(rng: random.Random) -> tuple[Turn, Turn]:
    a, b, c = rng.sample(GIRLS + BOYS, 3)
    more, most, least = rng.choice(COMPARISONS)
    facts = [f"{a} is {more} than {b}.", f"{b} is {more} than {c}."]
    rng.shuffle(facts)
    asks = [(f"Who is the {most}?", a), (f"Who is the {least}?", c), (f"Who is neither the {most} nor the {least}?", b)]
    (ask, one), (then, other) = rng.sample(asks, 2)
    prompt = f"{' '.join(facts)} {ask} Answer with one word."
    then = rng.choice([then, f"And {then[0].lower()}{then[1:]}"])
    return Turn(prompt, one, _equals(one)), Turn(then, other, _equals(other))


def _odd_one_out(rng: random.Random) -> tuple[Turn, Turn]:
    group, other = rng.sample(sorted(GROUPS), 2)
    alien = rng.choice([one for one in GROUPS[other] if one not in GROUPS[group]])
    words = [*rng.sample(GROUPS[group], 3), alien]
    rng.shuffle(words)
    prompt = rng.choice(["Which word does not belong: {}?", "Find the odd one out: {}.", "Which one is different: {}?"])
    if rng.random() < 0.5:
        rest = [word for word in words if word != alien]
        rule: Rule = {"kind": "items", "count": 3, "separator": ",", "among": rest}
        second = Turn("Write the other three words, separated by commas.", ", ".join(rest), rule)
    else:
        rule = both({"kind": "one_of", "texts": list(GROUPS[group])}, *({"kind": "lacks", "text": w} for w in words))
        more = rng.choice([one for one in GROUPS[group] if one not in words])
        second = Turn("Give another word that fits with the other three.", more, rule)
    return Turn(prompt.format(", ".join(words)), alien, _equals(alien)), second


def _series(rng: random.Random) -> tuple[Turn, Turn]:
    start, step = rng.randint(1, 30), rng.randint(2, 12)
    row = [start + step * place for place in range(6)]
    if rng.random() < 0.3:
        row = row[::-1]
    prompt = rng.choice(["Which number comes next: {}?", "Continue the row with one number: {}."])
    first = Turn(prompt.format(", ".join(map(str, row[:4]))), str(row[4]), _number(row[4]))
    return first, Turn(rng.choice(["And which comes after that?", "And the next one?"]), str(row[5]), _number(row[5]))


def mathematics(rng: random.Random) -> tuple[Turn, Turn]:
    """Return a chat in which a number is computed and then changed."""
    a, b, operator = rng.randint(2, 60), rng.randint(2, 40), rng.choice("+-*")
    if operator == "*":
        a, b = rng.randint(2, 12), rng.randint(2, 9)
    if operator == "-":
        a = a + b
    value = {"+": a + b, "-": a - b, "*": a * b}[operator]
    word = {"+": "plus", "-": "minus", "*": "times"}[operator]
    ask = rng.choice([f"What is {a} {operator} {b}?", f"What is {a} {word} {b}?", f"Compute {a} {word} {b}."])
    end = rng.choice([" Answer with the number only.", " Give only the number.", ""])
    return Turn(ask + end, str(value), _number(value)), _changed_number(rng, value)


def _changed_number(rng: random.Random, value: int) -> Turn:
    by = rng.randint(2, 20)
    operator = rng.choice("++-*" if value >= by else "++*")
    if operator == "*":
        by = rng.randint(2, 4)
    prompts = {
        "+": (f"Add {by} to that number.", f"Add {by} to it.", f"Make it {by} larger."),
        "-": (f"Subtract {by} from that number.", f"Take {by} away from it.", f"Make it {by} smaller."),
        "*": (f"Multiply that number by {by}.", f"Multiply it by {by}."),
    }[operator]
    new = {"+": value + by, "-": value - by, "*": value * by}[operator]
    rule: Rule = {"kind": "previous_number", "operator": operator, "by": by}
    return Turn(polite(rng, rng.choice(prompts)), str(new), rule)


def coding(rng: random.Random) -> tuple[Turn, Turn]:
    """Return a chat about a line of Python, or about a list."""
    if rng.random() < 0.25:
        group = rng.choice(sorted(GROUPS))
        first = naming(rng, group)
        return first, about_list(rng, group, first.answer)
    return rng.choice([_assignment, _printing, _literal])(rng)


def _assignment(rng: random.Random) -> tuple[Turn, Turn]:
    name, value, by = rng.choice(NAMES), rng.randint(0, 99), rng.randint(2, 20)
    ask = rng.choice([f"Write a line of Python that sets {name} to {value}.", f"In Python, set {name} to {value}."])
    code = f"{name} = {value}"
    changes = [("+", f"Add {by} to it."), ("-", f"Subtract {by} from it."), ("*", f"Multiply it by {by}.")]
    sign, text = rng.choice(changes)
    texts: Rule = {"kind": "one_of", "texts": [f"{name} {sign}= {by}", f"{name} = {name} {sign} {by}"]}
    return Turn(ask, code, _equals(code)), Turn(polite(rng, text), f"{name} {sign}= {by}", texts)


def _printing(rng: random.Random) -> tuple[Turn, Turn]:
    one, two = rng.sample(GROUPS["animals"] + GROUPS["fruits"] + GROUPS["colors"], 2)
    count = rng.randint(2, 9)
    ask = rng.choice([f"Write a line of Python that prints the word {one}.", f"How do I print {one} in Python?"])
    other, code = rng.choice(
        [
            (f"Now print {two} instead.", f'print("{two}")'),
            (f"Now print it {count} times in a row.", f'print("{one}" * {count})'),
            (f"Print {two} after it, in the same call.", f'print("{one}", "{two}")'),
        ]
    )
    return Turn(ask, f'print("{one}")', _equals(f'print("{one}")')), Turn(other, code, _equals(code))


def _literal(rng: random.Random) -> tuple[Turn, Turn]:
    start, count, name = rng.randint(1, 40), rng.randint(3, 5), rng.choice(NAMES)
    row = list(range(start, start + count))
    ask = f"Write a Python list of the numbers from {row[0]} to {row[-1]}."
    then, code = rng.choice(
        [
            ("Write it backwards.", str(row[::-1])),
            (f"Assign it to {name}.", f"{name} = {row}"),
            ("Write its length only.", str(count)),
            ("Leave out the first number.", str(row[1:])),
        ]
    )
    return Turn(ask, str(row), _equals(str(row))), Turn(polite(rng, then), code, _equals(code))


def _equals(text: str) -> Rule:
    return {"kind": "equals", "text": text}


def _number(value: int) -> Rule:
    return {"kind": "number", "value": value}
