"""Functions put together from random parts: keep some of a list, change each, gather."""

import random

from harness.nano.function_family import Family
from harness.nano.function_parts import NUMBER_CHANGES, NUMBER_TESTS, WORD_CHANGES, WORD_TESTS, Part

# Name, phrase, return type (T is that of one element), expression, and how a loop gathers: start, step, end.
Gather = tuple[str, str, str, str, Part, str]
GATHERS: tuple[Gather, ...] = (
    ("list", "a list of", "list[T]", "[ALL]", ("[]", "result.append(ONE)"), "result"),
    ("sorted", "in ascending order", "list[T]", "sorted(ALL)", ("[]", "result.append(ONE)"), "sorted(result)"),
    ("backwards", "backwards", "list[T]", "[ALL][::-1]", ("[]", "result.insert(0, ONE)"), "result"),
    ("distinct", "the number of different", "int", "len(set(ALL))", ("set()", "result.add(ONE)"), "len(result)"),
)
NUMBER_GATHERS = (
    ("sum", "the sum of", "int", "sum(ALL)", ("0", "result += ONE"), "result"),
    ("largest", "or 0 if empty the largest of", "int", "max([ALL], default=0)", ("[0]", "result.append(ONE)"), ""),
    ("product", "the product of", "int", "", ("1", "result *= ONE"), "result"),
    ("summed", "$q plus the sum of", "int", "$q + sum(ALL)", ("$q", "result += ONE"), "result"),
)
WORD_GATHERS = (
    ("joined", "joined by '$s'", "str", "'$s'.join(ALL)", ("[]", "result.append(ONE)"), "'$s'.join(result)"),
    ("text", "as one text", "str", "''.join(ALL)", ("''", "result += ONE"), "result"),
    (
        "length",
        "the total length of",
        "int",
        "sum(len(ONE) for n in $a if KEEP)",
        ("0", "result += len(ONE)"),
        "result",
    ),
)


def pipeline(rng: random.Random) -> Family:
    """Return a family that keeps, changes and gathers numbers or words."""
    if rng.random() < 0.5:
        return _pipeline(rng, "numbers", "int", (NUMBER_TESTS, NUMBER_CHANGES), GATHERS + NUMBER_GATHERS)
    return _pipeline(rng, "words", "str", (WORD_TESTS, WORD_CHANGES), GATHERS + WORD_GATHERS)


def _pipeline(
    rng: random.Random,
    kind: str,
    element: str,
    parts: tuple[tuple[Part, ...], tuple[Part, ...]],
    gathers: tuple[Gather, ...],
) -> Family:
    keep, condition = _test(rng, parts[0])
    change, expression = rng.choice(parts[1])
    name, phrase, returns, short, (start, step), end = rng.choice(gathers)
    bodies = [f"return {short}"] if short else []
    if end:
        bodies.append(f"result = {start}\nfor n in $a:\n    if KEEP:\n        {step}\nreturn {end}")
    filled = [
        body.replace("ALL", "ONE for n in $a if KEEP").replace("KEEP", condition).replace("ONE", expression)
        for body in bodies
    ]
    that_are = "that are " if kind == "numbers" else ""
    return Family(
        names=(f"{name}_{kind}", f"{name}_kept", f"pick_{name}", f"{name}_some", f"filter_{name}"),
        inputs=(kind,),
        returns=returns.replace("T", element),
        phrases=(f"Return {phrase} {change} {kind} in $a {that_are}{keep}.", f"Give {phrase} {change} $a {keep}."),
        bodies=tuple(filled),
    )


def _test(rng: random.Random, tests: tuple[Part, ...]) -> Part:
    """Return one test, or two tests joined by `and` or `or`."""
    (one, first), (two, second) = rng.sample(tests, 2)
    if rng.random() < 0.5:
        return one, first
    word = rng.choice(["and", "or"])
    return f"{one} {word} {two}", f"{first} {word} {second}"
