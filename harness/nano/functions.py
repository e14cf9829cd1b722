"""Functions in HumanEval's format: a signature with a docstring, an indented body, and asserts that were executed."""

import random
from collections.abc import Callable
from string import Template

from harness.nano.function_branches import branches, element_rule, pair_rule, score
from harness.nano.function_family import Family
from harness.nano.function_lists import LISTS
from harness.nano.function_loops import cuts, digits, neighbors, running, tables
from harness.nano.function_numbers import NUMBERS, TABLES
from harness.nano.function_parts import NOUNS, constants
from harness.nano.function_pipelines import pipeline
from harness.nano.function_programs import program
from harness.nano.function_texts import TEXTS
from harness.nano.problem import Problem
from harness.nano.words import ITEMS, split

FAMILIES = LISTS + TEXTS + NUMBERS + TABLES
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "numbers": split("numbers values nums items xs data scores prices points amounts ages sizes"),
    "number": split("n value number num amount limit size level age start"),
    "text": split("text s string sentence line phrase message title note name"),
    "words": split("words names strings labels tags terms parts tokens lines keys"),
    "table": split("table d mapping stock counts scores prices totals votes grades"),
}
# What an input is called in a signature, if not by its own kind.
BASE = {"some": "numbers", "sentence": "text", "word": "text", "item": "text", "small": "number", "big": "number"}
BASE["stock"] = "table"
HINTS = {"numbers": "list[int]", "number": "int", "text": "str", "words": "list[str]", "table": "dict[str, int]"}
PREFIXES = ("", "", "", "", "get_", "my_", "compute_", "do_", "make_", "quick_", "find_")
SUFFIXES = ("", "", "", "", "", "_of", "_now", "_all", "_fast", "_v2", "_for")
LONGEST_RESULT = 80
# The share of draws with a body of one to four lines.
SHORT = 0.35
# Each of these stands here as often as it is drawn.
LONG = (program,) * 5 + (running, running, neighbors, neighbors, digits, cuts, tables, pair_rule, element_rule, score)


def draw(rng: random.Random) -> Problem:
    """Return one random function to complete."""
    while True:
        problem = _problem(_family(rng), rng)
        if problem is not None:
            return problem


def _family(rng: random.Random) -> Family:
    """Return a short family, or in most draws one with a body of several statements."""
    if rng.random() < SHORT:
        return rng.choice([_listed, _listed, pipeline, pipeline, branches])(rng)
    return rng.choice(LONG)(rng)


def _listed(rng: random.Random) -> Family:
    return rng.choice(FAMILIES)


def _problem(family: Family, rng: random.Random) -> Problem | None:
    fields = _fields(family, rng)
    name = rng.choice(PREFIXES) + Template(rng.choice(family.names)).substitute(fields) + rng.choice(SUFFIXES)
    hints = rng.random() < 0.5
    names = [fields["ab"[place]] for place in range(len(family.inputs))]
    typed = [f"{arg}: {HINTS[BASE.get(kind, kind)]}" for arg, kind in zip(names, family.inputs, strict=True)]
    head = f"def {name}({', '.join(typed if hints else names)}){f' -> {family.returns}' if hints else ''}:\n"
    body = Template(rng.choice(family.bodies)).substitute(fields)
    answer = "".join(f"    {line}\n" for line in body.split("\n"))
    function = _compiled(head + answer, name)
    cases = _cases(function, family, rng)
    if cases is None:
        return None
    phrase = Template(rng.choice(family.phrases)).substitute(fields)
    examples = "".join(f"    >>> {name}({args})\n    {result}\n" for args, result in cases[: rng.randint(1, 2)])
    prompt = f'{head}    """ {phrase}\n{examples}    """\n'
    asserts = "".join(f"    assert candidate({args}) == {result}\n" for args, result in cases[1:])
    test = f"def check(candidate):\n{asserts}"
    return Problem("", (prompt,), (answer,), {"entry_point": name, "test": test})


def _fields(family: Family, rng: random.Random) -> dict[str, str]:
    """Draw the names of the arguments (a, b) and every constant that a template may use."""
    fields: dict[str, str] = {}
    for letter, kind in zip("ab", family.inputs, strict=False):
        pool = [arg for arg in ARGUMENTS[BASE.get(kind, kind)] if arg not in fields.values()]
        fields[letter] = rng.choice(pool)
    return fields | constants(rng)


def _compiled(source: str, name: str) -> Callable[..., object]:
    scope: dict[str, Callable[..., object]] = {}
    exec(source, scope)  # our own generated reference code
    return scope[name]


def _cases(function: Callable[..., object], family: Family, rng: random.Random) -> list[tuple[str, str]] | None:
    """Return six to eight calls with their results as source text, or None if the results are too uniform."""
    cases: dict[str, str] = {}
    for _ in range(20):
        args = [_input(kind, rng) for kind in family.inputs]
        shown = ", ".join(map(repr, args))
        result = repr(function(*args))
        if len(result) <= LONGEST_RESULT:
            cases[shown] = result
        if len(cases) == 8:
            break
    # There are only two answers to a question, and few words to choose from; other results have to differ more.
    wanted = 2 if family.returns in ("bool", "str") else 3
    return list(cases.items()) if len(cases) >= 6 and len(set(cases.values())) >= wanted else None


def _input(kind: str, rng: random.Random) -> object:
    if kind in ("numbers", "some"):
        return [rng.randint(-9, 20) for _ in range(rng.randint(kind == "some" and 2, 6))]
    if kind == "number":
        return rng.randint(0, 30)
    if kind == "small":
        return rng.randint(1, 7)
    if kind == "big":
        return rng.randint(10, 999)
    if kind == "item":
        return rng.choice(ITEMS[:4])
    if kind == "stock":
        return {item: rng.randint(0, 20) for item in rng.sample(ITEMS[:4], 2)}
    if kind == "word":
        word = rng.choice(NOUNS)
        return word + word[::-1] if rng.random() < 0.2 else word
    words = [rng.choice(NOUNS + tuple(ITEMS)) for _ in range(rng.randint(1, 4))]
    if kind == "table":
        return {word: rng.randint(0, 20) for word in words}
    return words if kind == "words" else " ".join(words)
