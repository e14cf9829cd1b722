"""Functions in HumanEval's format: a signature with a docstring, an indented body, and asserts that were executed."""

import random
from collections.abc import Callable
from string import Template

from harness.nano.function_family import Family
from harness.nano.function_lists import LISTS
from harness.nano.function_numbers import NUMBERS, TABLES
from harness.nano.function_pipelines import branches, pipeline
from harness.nano.function_texts import TEXTS
from harness.nano.problem import Problem
from harness.nano.words import GROUPS, ITEMS, split

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
NOUNS = tuple(word for group in ("animals", "colors", "fruits", "tools") for word in GROUPS[group])


def draw(rng: random.Random) -> Problem:
    """Return one random function to complete."""
    while True:
        family = rng.choice([rng.choice(FAMILIES), rng.choice(FAMILIES), pipeline(rng), pipeline(rng), branches(rng)])
        problem = _problem(family, rng)
        if problem is not None:
            return problem


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
    c, d = rng.sample("abcdeghilmnoprstu", 2)
    k, j = rng.sample(range(2, 10), 2)
    p, q = rng.sample(range(2, 10), 2)
    low, high = rng.randint(0, 4), rng.randint(5, 12)
    w, z = rng.sample(NOUNS, 2)
    numbers = {"k": k, "j": j, "p": p, "q": q, "m": rng.randint(11, 30), "lo": low, "hi": high}
    texts = {"c": c, "d": d, "w": w, "z": z, "s": rng.choice("-_/:+.*")}
    return fields | texts | {key: str(value) for key, value in numbers.items()}


def _compiled(source: str, name: str) -> Callable[..., object]:
    scope: dict[str, Callable[..., object]] = {}
    exec(source, scope)  # our own generated reference code
    return scope[name]


def _cases(function: Callable[..., object], family: Family, rng: random.Random) -> list[tuple[str, str]] | None:
    """Return six calls with their results as source text, or None where the results do not tell anything."""
    cases: dict[str, str] = {}
    for _ in range(20):
        args = [_input(kind, rng) for kind in family.inputs]
        shown = ", ".join(map(repr, args))
        cases[shown] = repr(function(*args))
        if len(cases) == 6:
            break
    return list(cases.items()) if len(cases) == 6 and len(set(cases.values())) > 1 else None


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
