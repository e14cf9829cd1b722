"""Programs: functions that compute named results one after another, each from those before it."""

import random
import re
from typing import NamedTuple

from harness.nano.function_family import Family
from harness.nano.function_parts import ACTIONS, NUMBER_CHANGES, NUMBER_TESTS, Part, filled, indented, part
from harness.nano.words import split

LIST_NAMES = split("kept picked chosen group rest found taken first second row extra_row part")
NUMBER_NAMES = split("total count best low extra base bonus high shift weight mark factor")
LIST_STEPS: tuple[Part, ...] = (
    ("the numbers of LIST that are TEST", "[x for x in LIST if COND]"),
    ("the numbers of LIST that are TEST", "[x for x in LIST if COND]"),
    ("CHANGE numbers of LIST", "[EXPR for x in LIST]"),
    ("CHANGE numbers of LIST that are TEST", "[EXPR for x in LIST if COND]"),
    ("the numbers of LIST greater than NUM", "[x for x in LIST if x > NUM]"),
    ("the numbers of LIST less than NUM", "[x for x in LIST if x < NUM]"),
    ("the numbers of LIST different from NUM", "[x for x in LIST if x != NUM]"),
    ("the numbers of LIST each plus NUM", "[x + NUM for x in LIST]"),
    ("NUM minus each number of LIST", "[NUM - x for x in LIST]"),
    ("NUM times each number of LIST", "[NUM * x for x in LIST]"),
    ("the numbers of LIST that are not in OTHER", "[x for x in LIST if x not in OTHER]"),
    ("the numbers of LIST that are also in OTHER", "[x for x in LIST if x in OTHER]"),
    ("LIST followed by OTHER", "LIST + OTHER"),
    ("LIST in ascending order", "sorted(LIST)"),
    ("LIST in descending order", "sorted(LIST, reverse=True)"),
    ("LIST backwards", "LIST[::-1]"),
    ("the first FEW numbers of LIST", "LIST[:FEW]"),
    ("the last FEW numbers of LIST", "LIST[-FEW:]"),
    ("LIST without its first FEW numbers", "LIST[FEW:]"),
    ("every second number of LIST from the first", "LIST[::2]"),
    ("the sums of the pairs from LIST and OTHER", "[x + y for x, y in zip(LIST, OTHER)]"),
    ("the larger numbers of the pairs from LIST and OTHER", "[max(x, y) for x, y in zip(LIST, OTHER)]"),
    ("LIST minus OTHER in pairs", "[x - y for x, y in zip(LIST, OTHER)]"),
)
LIST_NUMBERS: tuple[Part, ...] = (
    ("the sum of LIST", "sum(LIST)"),
    ("the length of LIST", "len(LIST)"),
    ("the largest of LIST or 0 if empty", "max(LIST, default=0)"),
    ("the smallest of LIST or 0 if empty", "min(LIST, default=0)"),
    ("how many different numbers are in LIST", "len(set(LIST))"),
    ("how many numbers of LIST are TEST", "sum(1 for x in LIST if COND)"),
    ("the sum of the numbers of LIST that are TEST", "sum(x for x in LIST if COND)"),
    ("the sum of CHANGE numbers of LIST", "sum(EXPR for x in LIST)"),
    ("how many numbers of LIST are greater than NUM", "sum(1 for x in LIST if x > NUM)"),
    ("how many numbers of LIST are at most NUM", "sum(1 for x in LIST if x <= NUM)"),
    ("how often NUM is in LIST", "LIST.count(NUM)"),
    ("how many numbers of LIST are in OTHER", "sum(1 for x in LIST if x in OTHER)"),
)
NUMBER_STEPS: tuple[Part, ...] = (
    ("FEW times NUM", "FEW * NUM"),
    ("the remainder of NUM by FEW", "NUM % FEW"),
    ("NUM plus MATE", "NUM + MATE"),
    ("NUM minus MATE", "NUM - MATE"),
    ("NUM times MATE", "NUM * MATE"),
    ("the larger of NUM and MATE", "max(NUM, MATE)"),
    ("the distance of NUM and MATE", "abs(NUM - MATE)"),
    ("NUM plus FEW times MATE", "NUM + FEW * MATE"),
    ("MANY minus NUM", "MANY - NUM"),
)
LAST_NUMBERS: tuple[Part, ...] = (
    *NUMBER_STEPS[2:],
    ("NUM if it is greater than MATE, else FEW times MATE", "NUM if NUM > MATE else FEW * MATE"),
    ("MANY if NUM is equal to MATE, else NUM minus MATE", "MANY if NUM == MATE else NUM - MATE"),
    ("NUM if MATE is even, else NUM plus FEW", "NUM if MATE % 2 == 0 else NUM + FEW"),
    ("NUM if MATE is less than FEW, else MATE", "NUM if MATE < FEW else MATE"),
)
LAST_LISTS: tuple[Part, ...] = (
    *LIST_STEPS,
    ("LIST if it has more than FEW numbers, else OTHER", "LIST if len(LIST) > FEW else OTHER"),
    ("LIST if NUM is greater than MATE, else LIST backwards", "LIST if NUM > MATE else LIST[::-1]"),
    ("LIST with NUM at its end", "LIST + [NUM]"),
    ("LIST with NUM before it", "[NUM] + LIST"),
)
MOST_LINES = 11
GATHERED = re.compile(r"(\[|sum\()(.+?) for (x|x, y) in (\w+\(.+?\)|\S+?)(?: if (.+))?[\])]")
CHOSEN = re.compile(r"(.+) if (.+) else (.+)")


class Step(NamedTuple):
    """One result: its name, what it means, its expression, and the results it is computed from."""

    name: str
    meaning: str
    code: str
    uses: frozenset[str]


class Draft(NamedTuple):
    """The names of the lists and numbers that a next step may use; the last ones are the newest."""

    lists: list[str]
    numbers: list[str]


def program(rng: random.Random) -> Family:
    """Return a family of programs of two to four named results and a last one."""
    while True:
        second = rng.choice([(), (), ("number",), ("numbers",)])
        draft = Draft(["$a"] + ["$b"] * (second == ("numbers",)), ["$b"] * (second == ("number",)))
        steps = _steps(draft, rng)
        whole = rng.random() < 0.5
        last = _step("", LAST_LISTS if whole else LAST_NUMBERS, draft, rng)
        if last is None:
            continue
        needed = _needed(steps, last)
        used = last.uses.union(*(step.uses for step in needed))
        if 2 <= len(needed) <= 4 and len(needed) == len(steps) and (not second or "$b" in used):
            phrases = (_forward(needed, last, rng), _backward(needed, last))
            body = "\n".join([*(_lines(step, rng) for step in needed), _ending(last.code, rng)])
            if body.count("\n") < MOST_LINES:
                returns = "list[int]" if whole else "int"
                return Family(ACTIONS, ("numbers", *second), returns, phrases, (body,))


def _steps(draft: Draft, rng: random.Random) -> list[Step]:
    """Draw named results and add their names to the draft."""
    lists, numbers = rng.sample(LIST_NAMES, 4), rng.sample(NUMBER_NAMES, 4)
    steps = []
    for _ in range(rng.choice([2, 3, 3, 4])):
        whole = rng.random() < 0.5
        step = _step(lists.pop(), LIST_STEPS, draft, rng) if whole else _step(numbers.pop(), _numeric(rng), draft, rng)
        if step is not None:
            steps.append(step)
            (draft.lists if whole else draft.numbers).append(step.name)
    return steps


def _numeric(rng: random.Random) -> tuple[Part, ...]:
    return NUMBER_STEPS if rng.random() < 0.2 else LIST_NUMBERS


def _step(name: str, parts: tuple[Part, ...], draft: Draft, rng: random.Random) -> Step | None:
    """Return one step with names and constants in place, or None if the draft has too few names for it."""
    meaning, code = rng.choice(parts)
    lists, numbers = _newest_first(draft.lists, rng), _newest_first(draft.numbers, rng)
    names = dict(zip(("LIST", "OTHER"), lists, strict=False)) | dict(zip(("NUM", "MATE"), numbers, strict=False))
    places = {word for word in ("LIST", "OTHER", "NUM", "MATE") if re.search(rf"\b{word}\b", code)}
    if not places <= names.keys():
        return None
    test, condition = part(rng, NUMBER_TESTS, "x")
    change, expression = part(rng, NUMBER_CHANGES[1:], "x")
    values = {"TEST": test, "COND": condition, "CHANGE": change, "EXPR": expression}
    values |= {"FEW": str(rng.randint(2, 9)), "MANY": str(rng.randint(10, 50))} | names
    uses = frozenset(names[word] for word in places)
    return Step(name, filled(meaning, values), filled(code, values), uses)


def _newest_first(names: list[str], rng: random.Random) -> list[str]:
    """Return the names in a random order in which the newest is often the first."""
    mixed = rng.sample(names, len(names))
    if names and rng.random() < 0.5:
        mixed.remove(names[-1])
        mixed.insert(0, names[-1])
    return mixed


def _needed(steps: list[Step], last: Step) -> list[Step]:
    """Return the steps that the last one needs, directly or not, in order."""
    wanted, needed = set(last.uses), list[Step]()
    for step in reversed(steps):
        if step.name in wanted:
            wanted |= step.uses
            needed.insert(0, step)
    return needed


def _forward(steps: list[Step], last: Step, rng: random.Random) -> str:
    pattern = rng.choice(["Let {} be {}.", "Set {} to {}.", "Call {} this: {}."])
    told = [pattern.format(step.name, step.meaning) for step in steps]
    return " ".join([*told, f"Return {last.meaning}."])


def _backward(steps: list[Step], last: Step) -> str:
    """Name the result first and explain what it is made of after it."""
    told = [f"{step.name} is {step.meaning}" for step in reversed(steps)]
    return f"Return {last.meaning}; here {'; '.join(told)}."


def _lines(step: Step, rng: random.Random) -> str:
    """Return an assignment, or sometimes the loop that does the same."""
    found = GATHERED.fullmatch(step.code)
    if not found or rng.random() < 0.45:
        return f"{step.name} = {step.code}"
    opening, one, variables, source, condition = found.groups()
    start, do = ("[]", f"{step.name}.append({one})") if opening == "[" else ("0", f"{step.name} += {one}")
    inner = f"if {condition}:\n{indented(do)}" if condition else do
    return f"{step.name} = {start}\nfor {variables} in {source}:\n{indented(inner)}"


def _ending(code: str, rng: random.Random) -> str:
    """Return the last line, or an early return and the last line."""
    found = None if code.startswith("[") else CHOSEN.fullmatch(code)
    if found and rng.random() < 0.7:
        return f"if {found[2]}:\n    return {found[1]}\nreturn {found[3]}"
    return f"return {code}"
