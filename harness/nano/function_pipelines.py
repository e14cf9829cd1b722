"""Functions put together from random parts: keep some of a list, change each, gather them; or branch on a number."""

import random
import re

from harness.nano.function_family import Family

Part = tuple[str, str]

NUMBER_TESTS: tuple[Part, ...] = (
    ("even", "n % 2 == 0"),
    ("odd", "n % 2 == 1"),
    ("positive", "n > 0"),
    ("negative", "n < 0"),
    ("greater than $k", "n > $k"),
    ("less than $j", "n < $j"),
    ("at most $m", "n <= $m"),
    ("at least $j", "n >= $j"),
    ("divisible by $k", "n % $k == 0"),
    ("not divisible by $j", "n % $j != 0"),
    ("between $lo and $hi", "$lo <= n <= $hi"),
    ("not equal to $k", "n != $k"),
)
NUMBER_CHANGES: tuple[Part, ...] = (
    ("the", "n"),
    ("the squares of the", "n * n"),
    ("the doubles of the", "2 * n"),
    ("$p times the", "$p * n"),
    ("$p more than the", "n + $p"),
    ("$p less than the", "n - $p"),
    ("the negatives of the", "-n"),
    ("the absolute values of the", "abs(n)"),
    ("$p plus twice the", "2 * n + $p"),
    ("$q minus the", "$q - n"),
    ("$p plus the squares of the", "n * n + $p"),
    ("the remainders by $p of the", "n % $p"),
)
WORD_TESTS: tuple[Part, ...] = (
    ("longer than $k", "len(n) > $k"),
    ("shorter than $j", "len(n) < $j"),
    ("starting with '$c'", "n.startswith('$c')"),
    ("ending with '$d'", "n.endswith('$d')"),
    ("with a letter '$c'", "'$c' in n"),
    ("without a letter '$d'", "'$d' not in n"),
    ("of even length", "len(n) % 2 == 0"),
    ("other than '$w'", "n != '$w'"),
)
WORD_CHANGES: tuple[Part, ...] = (
    ("the", "n"),
    ("the upper case forms of the", "n.upper()"),
    ("the capitalized", "n.capitalize()"),
    ("the reversed", "n[::-1]"),
    ("the first letters of the", "n[0]"),
    ("the last $p letters of the", "n[-$p:]"),
    ("the first $p letters of the", "n[:$p]"),
    ("'$z' plus the", "'$z' + n"),
    ("twice the", "n + n"),
    ("with '$c' turned to '$d' the", "n.replace('$c', '$d')"),
)
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


def branches(rng: random.Random) -> Family:
    """Return a family that computes one of two or three results, depending on a number."""
    tests = rng.sample([test for test in NUMBER_TESTS if test[0] != "negative"], 2)[: rng.randint(1, 2)]
    changes = rng.sample([change for change in NUMBER_CHANGES if "remainders" not in change[0]], len(tests) + 1)
    clauses, lines = [], []
    for (phrase, condition), (_, expression) in zip(tests, changes, strict=False):
        clauses.append(f"{expression} if $a is {phrase}")
        lines.append(f"if {condition}:\n    return {expression}")
    last = changes[-1][1]
    text = ", ".join(clauses)
    body = "\n".join([*lines, f"return {last}"])
    return Family(
        names=("branch", "piecewise", "decide", "case_of", "rule"),
        inputs=("number",),
        returns="int",
        phrases=(_named(f"Return {text}, otherwise {last}."), _named(f"Compute {text}, else {last}.")),
        bodies=(_named(body),),
    )


def _named(text: str) -> str:
    """Return the text with the argument in place of the bare name n."""
    return re.sub(r"\bn\b", "${a}", text)
