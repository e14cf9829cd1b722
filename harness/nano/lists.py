"""Lists of names to change: some changes have one right answer, and for others the names of it depend on each other.

The kinds are those of ParallelBench (arXiv 2510.04767) that need no more than a list.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from harness.nano.problem import Problem
from harness.nano.words import BOYS, GIRLS

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
FEWEST, MOST = 3, len(ORDINALS)
ASKED = {
    "copy": "Copied", "reverse": "Reversed", "sort": "Sorted", "replace": "With {new} in place of the {place} name",
    "shuffle": "In any order", "replace_any": "With {new} in place of any name",
}
TESTED = 33  # problems of each kind
ONE_ANSWER = ("copy", "reverse", "sort", "replace")


def draw(rng: random.Random) -> Problem:
    """Draw a problem: three to six different names, what to do with them, and a right answer."""
    kind = rng.choice(tuple(ASKED))
    *names, new = rng.sample((*GIRLS, *BOYS), rng.randint(FEWEST, MOST) + 1)
    place = rng.randrange(len(names))
    check: dict[str, Any] = {"kind": kind, "names": names, "new": new, "place": place}
    asked = ASKED[kind].format(new=new, place=ORDINALS[place])
    check["text"] = ", ".join(_answer(check, rng))
    turn = f"List: {', '.join(names)}\n{asked}:"
    return Problem(turn, (turn,), (f" {check['text']}",), check)


def tested() -> dict[str, list[Problem]]:
    """Return 33 problems of each kind, which no model is trained on."""
    rng, found = random.Random("parallel/test"), {kind: dict[str, Problem]() for kind in ASKED}
    while min(map(len, found.values())) < TESTED:
        problem = draw(rng)
        found[str(problem.check["kind"])][problem.id] = problem
    return {kind: list(each.values())[:TESTED] for kind, each in found.items()}


def right(check: Mapping[str, Any], answer: Sequence[str]) -> bool:
    """Return whether an answer is right; where names may be in any order or place, each of these answers is."""
    names, found = list(check["names"]), list(answer)
    if check["kind"] == "shuffle":
        return sorted(found) == sorted(names)
    if check["kind"] == "replace_any":
        return len(found) == len(names) and [a for a, b in zip(found, names, strict=True) if a != b] == [check["new"]]
    return found == str(check["text"]).split(", ")


def _answer(check: Mapping[str, Any], rng: random.Random) -> list[str]:
    names = list(check["names"])
    match check["kind"]:
        case "reverse":
            names.reverse()
        case "sort":
            names.sort()
        case "shuffle":
            rng.shuffle(names)
        case "replace" | "replace_any":
            names[check["place"]] = check["new"]
    return names
