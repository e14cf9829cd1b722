"""Random parts of functions: tests and changes of one number or word, as phrase and code."""

import random
import re
from collections.abc import Mapping
from string import Template

from harness.nano.words import GROUPS, split

Part = tuple[str, str]

NOUNS = tuple(word for group in ("animals", "colors", "fruits", "tools") for word in GROUPS[group])
# No argument has one of these names, so a variable never hides an argument.
TOTALS = split("total score sum_so_far balance energy result_value")
COUNTS = split("count found hits matches times")
RESULTS = split("result out output answer collected")
ACTIONS = split("solve process run_rule handle work_out evaluate")

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


def constants(rng: random.Random) -> dict[str, str]:
    """Draw every constant that a template may use."""
    c, d = rng.sample("abcdeghilmnoprstu", 2)
    k, j = rng.sample(range(2, 10), 2)
    p, q = rng.sample(range(2, 10), 2)
    low, high = rng.randint(0, 4), rng.randint(5, 12)
    w, z = rng.sample(NOUNS, 2)
    numbers = {"k": k, "j": j, "p": p, "q": q, "m": rng.randint(11, 30), "lo": low, "hi": high}
    texts = {"c": c, "d": d, "w": w, "z": z, "s": rng.choice("-_/:+.*")}
    return texts | {key: str(value) for key, value in numbers.items()}


def part(rng: random.Random, parts: tuple[Part, ...], name: str) -> Part:
    """Return one of the parts about the variable `name`, with constants of its own in place."""
    phrase, code = rng.choice(parts)
    fields = constants(rng)
    return Template(phrase).safe_substitute(fields), Template(renamed(code, name)).safe_substitute(fields)


def renamed(code: str, name: str) -> str:
    """Return the code with `name` in place of the bare variable n."""
    return re.sub(r"\bn\b", name, code)


def filled(text: str, values: Mapping[str, str]) -> str:
    """Return the text with values in place of the words in capitals."""
    return re.sub(r"\b[A-Z]+\b", lambda found: values.get(found[0], found[0]), text)


def indented(lines: str) -> str:
    """Return the lines one level deeper."""
    return "\n".join(f"    {line}" for line in lines.split("\n"))


def ladder(tests: list[str], actions: list[str], last: str = "") -> str:
    """Return the lines of if, elif and, where there is a last action, else."""
    words = ["if"] + ["elif"] * (len(tests) - 1)
    rungs = [f"{word} {test}:\n{indented(do)}" for word, test, do in zip(words, tests, actions, strict=False)]
    return "\n".join([*rungs, f"else:\n{indented(last)}"] if last else rungs)
