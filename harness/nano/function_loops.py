"""Functions whose loop carries a state: running totals, neighbors, pairs, digits, repeated cuts, tables of counts."""

import random

from harness.nano.function_family import Family
from harness.nano.function_parts import (
    ACTIONS,
    COUNTS,
    NUMBER_CHANGES,
    NUMBER_TESTS,
    RESULTS,
    TOTALS,
    WORD_TESTS,
    Part,
    filled,
    indented,
    part,
)
from harness.nano.words import split

UPDATES: tuple[Part, ...] = (
    ("add X to TOTAL", "TOTAL += X"),
    ("subtract X from TOTAL", "TOTAL -= X"),
    ("add EXPR to TOTAL", "TOTAL += EXPR"),
    ("subtract EXPR from TOTAL", "TOTAL -= EXPR"),
    ("set TOTAL to the distance of TOTAL and X", "TOTAL = abs(TOTAL - X)"),
    ("set TOTAL to the larger of TOTAL and EXPR", "TOTAL = max(TOTAL, EXPR)"),
    ("set TOTAL to MANY minus TOTAL plus X", "TOTAL = MANY - TOTAL + X"),
    ("add X to TOTAL if X is TEST", "if COND:\n    TOTAL += X"),
    ("subtract X from TOTAL if X is TEST", "if COND:\n    TOTAL -= X"),
    ("add EXPR to TOTAL if X is TEST", "if COND:\n    TOTAL += EXPR"),
)
EVENTS: tuple[Part, ...] = (
    ("TOTAL is greater than MANY", "TOTAL > MANY"),
    ("TOTAL is less than FEW", "TOTAL < FEW"),
    ("TOTAL is at least MANY", "TOTAL >= MANY"),
    ("TOTAL is below 0", "TOTAL < 0"),
    ("TOTAL is divisible by FEW", "TOTAL % FEW == 0"),
    ("TOTAL is even", "TOTAL % 2 == 0"),
    ("TOTAL is odd", "TOTAL % 2 == 1"),
    ("X is TEST", "COND"),
    ("TOTAL is greater than X", "TOTAL > X"),
)
# What happens at an event, and what is returned at the end (COUNT starts at 0, RESULT as an empty list).
REACTIONS: tuple[tuple[Part, Part], ...] = (
    (("set TOTAL to FEW", "TOTAL = FEW"), ("TOTAL", "TOTAL")),
    (("subtract MANY from TOTAL", "TOTAL -= MANY"), ("TOTAL", "TOTAL")),
    (("halve TOTAL rounding down", "TOTAL //= 2"), ("TOTAL", "TOTAL")),
    (("double TOTAL", "TOTAL *= 2"), ("TOTAL", "TOTAL")),
    (("return TOTAL at once", "return TOTAL"), ("TOTAL plus FEW", "TOTAL + FEW")),
    (("stop", "break"), ("TOTAL", "TOTAL")),
    (("add 1 to COUNT", "COUNT += 1"), ("COUNT", "COUNT")),
    (("add 1 to COUNT", "COUNT += 1"), ("TOTAL plus FEW times COUNT", "TOTAL + FEW * COUNT")),
    (("add 1 to COUNT and set TOTAL to FEW", "COUNT += 1\nTOTAL = FEW"), ("COUNT", "COUNT")),
    (("put TOTAL into RESULT", "RESULT.append(TOTAL)"), ("RESULT", "RESULT")),
    (("put X into RESULT", "RESULT.append(X)"), ("RESULT", "RESULT")),
    (("put TOTAL into RESULT and set TOTAL to FEW", "RESULT.append(TOTAL)\nTOTAL = FEW"), ("RESULT", "RESULT")),
    (("put EXPR into RESULT and set TOTAL to 0", "RESULT.append(EXPR)\nTOTAL = 0"), ("RESULT", "RESULT")),
)
NEIGHBOR_TESTS: tuple[Part, ...] = (
    ("X is greater than Y", "X > Y"),
    ("X is less than Y", "X < Y"),
    ("X and Y differ by more than FEW", "abs(X - Y) > FEW"),
    ("X plus Y is less than MANY", "X + Y < MANY"),
    ("X plus Y is even", "(X + Y) % 2 == 0"),
    ("X plus Y is divisible by FEW", "(X + Y) % FEW == 0"),
    ("X is TEST", "COND"),
    ("X is greater than FEW times Y", "X > FEW * Y"),
    ("X times Y is greater than MANY", "X * Y > MANY"),
)
NEIGHBOR_VALUES: tuple[Part, ...] = (
    ("X", "X"),
    ("Y", "Y"),
    ("X plus Y", "X + Y"),
    ("X minus Y", "X - Y"),
    ("X times Y", "X * Y"),
    ("the larger of X and Y", "max(X, Y)"),
    ("the smaller of X and Y", "min(X, Y)"),
    ("FEW times X plus Y", "FEW * X + Y"),
    ("the distance of X and Y", "abs(X - Y)"),
)
CUT_TESTS = tuple(test for test in NUMBER_TESTS if "%" in test[1])
TABLES = split("groups seen tally by_key found_by")
# What is done with the values of an inner loop: phrase, start, step, end and return type.
COLLECTORS: tuple[tuple[str, str, str, str, str], ...] = (
    ("Return the list of VALUE", "[]", "RESULT.append(EXPR)", "RESULT", "list[int]"),
    ("Return the sum of VALUE", "0", "RESULT += EXPR", "RESULT", "int"),
    ("Return the largest, but at least MANY, of VALUE", "MANY", "RESULT = max(RESULT, EXPR)", "RESULT", "int"),
    ("Return MANY minus the sum of VALUE", "MANY", "RESULT -= EXPR", "RESULT", "int"),
    ("Return the number of different values of VALUE", "set()", "RESULT.add(EXPR)", "len(RESULT)", "int"),
    ("Return in ascending order VALUE", "[]", "RESULT.append(EXPR)", "sorted(RESULT)", "list[int]"),
)
KEYS: tuple[tuple[str, str, str, str], ...] = (
    ("words", "str", "first letter", "X[0]"),
    ("words", "str", "last letter", "X[-1]"),
    ("words", "int", "length", "len(X)"),
    ("numbers", "int", "remainder by FEW", "X % FEW"),
    ("numbers", "int", "quotient by FEW", "X // FEW"),
    ("numbers", "int", "square", "X * X"),
    ("sentence", "str", "character", "X"),
    ("sentence", "str", "upper case form", "X.upper()"),
)
TABLE_RETURNS: tuple[tuple[str, str, str], ...] = (
    (
        "Return the keys with a TALLY greater than FEW in ascending order.",
        "sorted(k for k in D if D[k] > FEW)",
        "list[T]",
    ),
    (
        "Return the keys with a TALLY of at most FEW in ascending order.",
        "sorted(k for k in D if D[k] <= FEW)",
        "list[T]",
    ),
    (
        "Return the table of those with a TALLY of at least FEW.",
        "{k: v for k, v in D.items() if v >= FEW}",
        "dict[T, int]",
    ),
    ("Return the table with each TALLY times FEW.", "{k: FEW * v for k, v in D.items()}", "dict[T, int]"),
    ("Return the largest TALLY or 0 if there is none.", "max(D.values(), default=0)", "int"),
    ("Return how many keys have an even TALLY.", "sum(1 for k in D if D[k] % 2 == 0)", "int"),
    ("Return the TALLY of each key in ascending order of the keys.", "[D[k] for k in sorted(D)]", "list[int]"),
)


def _parts(rng: random.Random, x: str) -> dict[str, str]:
    """Draw a test and a change of the variable `x`, and two constants."""
    test, condition = part(rng, NUMBER_TESTS, x)
    _, expression = part(rng, NUMBER_CHANGES[1:], x)
    values = {"TEST": test, "COND": condition, "EXPR": expression}
    return values | {"FEW": str(rng.randint(2, 9)), "MANY": str(rng.randint(10, 40))}


def _drawn(rng: random.Random, parts: tuple[Part, ...], x: str) -> Part:
    """Return one of the parts with a test, a change and constants of its own; names stay capitals."""
    phrase, code = rng.choice(parts)
    values = _parts(rng, x)
    return filled(phrase, values), filled(code, values)


def _names(rng: random.Random, x: str, y: str = "") -> dict[str, str]:
    """Draw the names of the variables."""
    return {
        "X": x,
        "Y": y,
        "TOTAL": rng.choice(TOTALS),
        "COUNT": rng.choice(COUNTS),
        "RESULT": rng.choice(RESULTS),
    }


def running(rng: random.Random) -> Family:
    """Return a family that updates a total by each number and reacts where a test holds."""
    x = rng.choice("xvy")
    (update, change), (event, condition) = _drawn(rng, UPDATES, x), _drawn(rng, EVENTS, x)
    (reaction, action), (returned, final) = rng.choice(REACTIONS)
    opening, first = ["TOTAL = START"], "Start with TOTAL at START"
    if "COUNT" in action:
        opening, first = [*opening, "COUNT = 0"], f"{first} and COUNT at 0"
    if "RESULT" in action:
        opening, first = [*opening, "RESULT = []"], f"{first} and an empty list RESULT"
    loop = f"for X in $a:\n{indented(change)}\n    if {condition}:\n{indented(indented(action))}"
    values = _names(rng, x) | _parts(rng, x) | {"START": str(rng.choice([0, rng.randint(1, 20)]))}
    phrase = f"{first}. For each X in $a {update}; if then {event}, {reaction}. Return {returned}."
    body = "\n".join([*opening, loop, f"return {final}"])
    returns = "list[int]" if final == "RESULT" else "int"
    return Family(ACTIONS, ("numbers",), returns, (filled(phrase, values),), (filled(body, values),))


def neighbors(rng: random.Random) -> Family:
    """Return a family that looks at each number with the one before it, or at all pairs of numbers."""
    x, y = rng.choice([("x", "y"), ("y", "x"), ("u", "v"), ("v", "w")])
    tests = [_drawn(rng, (one,), x) for one in rng.sample(NEIGHBOR_TESTS, rng.choice([1, 1, 2]))]
    word = rng.choice(["and", "or"])
    said, condition = (f" {word} ".join(side) for side in zip(*tests, strict=True))
    value, expression = _drawn(rng, NEIGHBOR_VALUES, x)
    gather, start, step, final, returns = rng.choice(COLLECTORS)
    step = step.replace("EXPR", expression)
    inner = f"if {condition}:\n{indented(step)}"
    kind, inputs, loop = rng.choice(
        [
            ("for each X in $a with Y before it", ("numbers",), f"for Y, X in zip($a, $a[1:]):\n{indented(inner)}"),
            ("for each X in $a and each Y in $b", ("some", "some"), _nested("$b", inner)),
            ("for each X in $a and each Y after it", ("numbers",), _later(inner)),
        ]
    )
    phrase = f"{gather.replace('VALUE', value)} {kind}, where {said}."
    body = f"RESULT = {start}\n{loop}\nreturn {final}"
    values = _names(rng, x, y) | _parts(rng, x)
    return Family(ACTIONS, inputs, returns, (filled(phrase, values),), (filled(body, values),))


def _nested(source: str, inner: str) -> str:
    return f"for X in $a:\n    for Y in {source}:\n{indented(indented(inner))}"


def _later(inner: str) -> str:
    return f"for i, X in enumerate($a):\n    for Y in $a[i + 1:]:\n{indented(indented(inner))}"


def digits(rng: random.Random) -> Family:
    """Return a family that takes a number apart digit by digit, from the last to the first."""
    values = _names(rng, "digit") | _parts(rng, "digit")
    gather, start, step, final, returns = rng.choice(COLLECTORS)
    plain = rng.random() < 0.5
    value = "each digit" if plain else values["EXPR"] + " for each digit"
    step = step.replace("EXPR", "digit") if plain else step
    phrase = f"{gather.replace('VALUE', value)} of $a that is TEST, from the last digit to the first."
    lines = f"digit = $a % 10\n$a //= 10\nif COND:\n{indented(step)}"
    body = f"RESULT = {start}\nwhile $a > 0:\n{indented(lines)}\nreturn {final}"
    return Family(ACTIONS, ("big",), returns, (filled(phrase, values),), (filled(body, values),))


def cuts(rng: random.Random) -> Family:
    """Return a family that makes a number smaller in two ways until it is small enough."""
    values = _names(rng, "$a") | _parts(rng, "$a") | {"CUT": str(rng.randint(2, 4)), "LESS": str(rng.randint(1, 9))}
    test, condition = part(rng, (*CUT_TESTS, ("divisible by CUT", "n % CUT == 0")), "$a")
    way, gather, start, final, returns = rng.choice(
        [
            ("Return how many steps this takes", "RESULT += 1", "0", "RESULT", "int"),
            ("Return $a after each step", "RESULT.append($a)", "[]", "RESULT", "list[int]"),
            ("Return the sum of $a after each step", "RESULT += $a", "0", "RESULT", "int"),
            ("Return the number of steps times $a at the end", "RESULT += 1", "0", "RESULT * $a", "int"),
        ]
    )
    phrase = (
        f"While $a is greater than MANY, divide it by CUT rounding down if it is {test}, else subtract LESS. {way}."
    )
    lines = f"if {condition}:\n    $a //= CUT\nelse:\n    $a -= LESS\n{gather}"
    body = f"RESULT = {start}\nwhile $a > MANY:\n{indented(lines)}\nreturn {final}"
    return Family(ACTIONS, ("big",), returns, (filled(phrase, values),), (filled(body, values),))


def tables(rng: random.Random) -> Family:
    """Return a family that counts or sums by a key, then reads the table."""
    kind, element, name, key = rng.choice(KEYS)
    x = rng.choice("xuw")
    sums = kind == "numbers" and rng.random() < 0.5
    step = f"D[{key}] = D.get({key}, 0) + {'X' if sums else '1'}"
    whom = {"words": "words", "numbers": "numbers", "sentence": "characters"}[kind]
    if kind != "sentence" and rng.random() < 0.6:
        test, condition = part(rng, WORD_TESTS if kind == "words" else NUMBER_TESTS, x)
        whom, step = f"{whom} {test}", f"if {condition}:\n{indented(step)}"
    ask, final, returns = rng.choice(TABLE_RETURNS)
    few = {"FEW": str(rng.randint(2, 20) if sums else rng.randint(1, 2))}
    values = {"X": x, "D": rng.choice(TABLES), "TALLY": "sum" if sums else "count", "FEW": str(rng.randint(2, 9))}
    phrase = f"{'Sum' if sums else 'Count'} the {whom} in $a by {name}. {filled(ask, few)}"
    body = f"D = {{}}\nfor X in $a:\n{indented(step)}\nreturn {filled(final, few)}"
    returns = filled(returns, {"T": element})
    return Family(ACTIONS, (kind,), returns, (filled(phrase, values),), (filled(body, values),))
