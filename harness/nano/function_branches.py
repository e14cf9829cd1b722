"""Functions that decide between two to four cases: for a number, for two, or for each element of a list or text."""

import random

from harness.nano.function_family import Family
from harness.nano.function_parts import (
    ACTIONS,
    COUNTS,
    NUMBER_CHANGES,
    NUMBER_TESTS,
    RESULTS,
    WORD_CHANGES,
    WORD_TESTS,
    Part,
    filled,
    indented,
    ladder,
    part,
    renamed,
)

PAIR_TESTS: tuple[Part, ...] = (
    ("ONE is greater than TWO", "ONE > TWO"),
    ("ONE is less than TWO", "ONE < TWO"),
    ("ONE and TWO are equal", "ONE == TWO"),
    ("ONE plus TWO is greater than MANY", "ONE + TWO > MANY"),
    ("ONE plus TWO is even", "(ONE + TWO) % 2 == 0"),
    ("ONE times TWO is divisible by FEW", "ONE * TWO % FEW == 0"),
    ("ONE is more than twice TWO", "ONE > 2 * TWO"),
    ("ONE and TWO differ by at least FEW", "abs(ONE - TWO) >= FEW"),
    ("ONE and TWO are both TEST", "FIRST and SECOND"),
    ("ONE or TWO is TEST", "FIRST or SECOND"),
    ("only ONE of the two is TEST", "FIRST and not SECOND"),
    ("ONE is TEST", "FIRST"),
    ("TWO is TEST", "SECOND"),
)
PAIR_VALUES: tuple[Part, ...] = (
    ("their sum", "$a + $b"),
    ("their product", "$a * $b"),
    ("their distance", "abs($a - $b)"),
    ("the larger one", "max($a, $b)"),
    ("the smaller one", "min($a, $b)"),
    ("ONE minus TWO", "ONE - TWO"),
    ("FEW times ONE", "FEW * ONE"),
    ("MANY minus ONE", "MANY - ONE"),
    ("ONE plus FEW times TWO", "ONE + FEW * TWO"),
    ("the square of ONE minus TWO", "ONE * ONE - TWO"),
    ("their sum plus MANY", "$a + $b + MANY"),
    ("FEW times their distance", "FEW * abs($a - $b)"),
    ("the remainder of ONE by FEW", "ONE % FEW"),
)
LETTER_TESTS: tuple[Part, ...] = (
    ("a vowel", "n in 'aeiou'"),
    ("not a vowel", "n not in 'aeiou'"),
    ("'$c'", "n == '$c'"),
    ("'$c' or '$d'", "n in '$c$d'"),
    ("a blank", "n == ' '"),
    ("not '$d'", "n != '$d'"),
    ("before '$c' in the alphabet", "n < '$c'"),
    ("'$c' or later in the alphabet", "n >= '$c'"),
)
LETTER_CHANGES: tuple[Part, ...] = (
    ("it", "n"),
    ("it in upper case", "n.upper()"),
    ("it twice", "n + n"),
    ("it $p times", "n * $p"),
    ("it and '$s'", "n + '$s'"),
    ("'$s' and it", "'$s' + n"),
    ("'$s'", "'$s'"),
    ("'$c'", "'$c'"),
    ("it in upper case and '$d'", "n.upper() + '$d'"),
)


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
        phrases=(
            renamed(f"Return {text}, otherwise {last}.", "${a}"),
            renamed(f"Compute {text}, else {last}.", "${a}"),
        ),
        bodies=(renamed(body, "${a}"),),
    )


def pair_rule(rng: random.Random) -> Family:
    """Return a family that computes one of three or four results from two numbers."""
    count = rng.randint(2, 3)
    tests = [_about_two(one, rng) for one in rng.sample(PAIR_TESTS, count)]
    values = [_about_two(one, rng) for one in rng.sample(PAIR_VALUES, count + 1)]
    words = ["If", "Else if", "Else if"]
    texts = [f"{word} {test[0]}, return {value[0]}." for word, test, value in zip(words, tests, values, strict=False)]
    codes, last = [code for _, code in tests], values[-1]
    shown = rng.choice([f"Otherwise return {last[0]}.", f"In all other cases return {last[0]}."])
    returns = ladder(codes, [f"return {value[1]}" for value in values])
    sets = ladder(codes, [f"result = {value[1]}" for value in values], f"result = {last[1]}")
    bodies = (f"{returns}\nreturn {last[1]}", f"{sets}\nreturn result")
    return Family(ACTIONS, ("number", "number"), "int", (" ".join([*texts, shown]),), bodies)


def _about_two(one: Part, rng: random.Random) -> Part:
    """Return the part about the two arguments in either order, with constants in place."""
    first, second = rng.sample(["$a", "$b"], 2)
    phrase, code = part(rng, NUMBER_TESTS, "IT")
    values = {"ONE": first, "TWO": second, "FEW": str(rng.randint(2, 9)), "MANY": str(rng.randint(10, 40))}
    values |= {"TEST": phrase, "FIRST": filled(code, {"IT": first}), "SECOND": filled(code, {"IT": second})}
    return filled(one[0], values), filled(one[1], values)


def element_rule(rng: random.Random) -> Family:
    """Return a family that treats the elements of a list or text in two or three different ways."""
    count, x = rng.randint(1, 2), rng.choice("xvy")
    result = rng.choice(RESULTS)
    kind, tests, changes, element = rng.choice(
        [
            ("numbers", NUMBER_TESTS, NUMBER_CHANGES, "int"),
            ("words", WORD_TESTS, WORD_CHANGES, "str"),
            ("sentence", LETTER_TESTS, LETTER_CHANGES, ""),
        ]
    )
    cases = [part(rng, (one,), x) for one in rng.sample(tests, count)]
    ways = [part(rng, (one,), x) for one in rng.sample(changes, count + 1)]
    add = "RESULT += ONE" if kind == "sentence" else "RESULT.append(ONE)"
    steps = [add.replace("RESULT", result).replace("ONE", code) for _, code in ways]
    last = rng.random() < 0.6
    rungs = ladder([code for _, code in cases], steps, steps[-1] if last else "")
    noun = {"numbers": "number", "words": "word", "sentence": "character"}[kind]
    said = [_way(phrase, code, noun) for phrase, code in ways]
    clauses = [f"{way} if {x} is {case}" for way, (case, _) in zip(said, cases, strict=False)]
    rest = f"otherwise {said[-1]}" if last else f"and leave out any other {noun}"
    ending, final = rng.choice([("", result), ("", result), (" Reverse the result.", f"{result}[::-1]")])
    start = "''" if kind == "sentence" else "[]"
    return Family(
        names=ACTIONS,
        inputs=(kind,),
        returns=f"list[{element}]" if element else "str",
        phrases=tuple(
            f"{opening} {noun} {x} in $a {verb} {', else '.join(clauses)}, {rest}.{ending}"
            for opening, verb in (("For each", "add"), ("From every", "take"))
        ),
        bodies=(f"{result} = {start}\nfor {x} in $a:\n{indented(rungs)}\nreturn {final}",),
    )


def _way(phrase: str, code: str, noun: str) -> str:
    """Return the phrase of a change for one element; the phrases of changes are about many."""
    if noun == "number":
        return code
    single = phrase.replace("forms", "form").replace("first letters", "first letter")
    return f"{single} {noun}" if noun == "word" else phrase


def score(rng: random.Random) -> Family:
    """Return a family that moves a count up and down, by tests of each element in turn."""
    kind, tests, noun = rng.choice([("numbers", NUMBER_TESTS, "number"), ("words", WORD_TESTS, "word")])
    x, name, start = rng.choice("xvy"), rng.choice(COUNTS), rng.choice([0, 0, rng.randint(1, 20)])
    cases = [part(rng, (one,), x) for one in rng.sample(tests, rng.randint(2, 3))]
    moves = [(rng.choice([("add", "+="), ("subtract", "-=")]), rng.randint(1, 9)) for _ in cases]
    clauses = [f"{word} {by} if {x} is {case}" for (case, _), ((word, _), by) in zip(cases, moves, strict=True)]
    rungs = ladder([code for _, code in cases], [f"{name} {operator} {by}" for (_, operator), by in moves])
    return Family(
        names=ACTIONS,
        inputs=(kind,),
        returns="int",
        phrases=(f"Start with {name} at {start}. For each {noun} {x} in $a {', else '.join(clauses)}. Return {name}.",),
        bodies=(f"{name} = {start}\nfor {x} in $a:\n{indented(rungs)}\nreturn {name}",),
    )
