"""Rules that an answer in a chat must follow: pure checks of text, described by JSON."""

import re
from collections.abc import Callable
from typing import Any

Rule = dict[str, Any]
Check = Callable[[str, Rule, str], bool]


def follows(answer: str, rule: Rule, *, previous: str) -> bool:
    """Return whether `answer` follows `rule`; `previous` is the model's own first answer (empty in the first turn).

    Raises ValueError for an unknown kind of rule.
    """
    kind = rule.get("kind")
    if not isinstance(kind, str) or kind not in CHECKS:
        raise ValueError(f"There is no rule of the kind {kind!r}; the kinds are {', '.join(sorted(CHECKS))}.")
    return CHECKS[kind](answer.strip(), rule, previous.strip())


def change(text: str, how: str) -> str:
    """Return the text after the change `how` of an earlier answer; raises ValueError for an unknown change."""
    if how not in CHANGES:
        raise ValueError(f"There is no change called {how!r}; the changes are {', '.join(sorted(CHANGES))}.")
    return CHANGES[how](text)


def items(text: str, separator: str = ",") -> list[str]:
    """Return the parts of a list such as `a, b, c`, without outer blanks and a final full stop."""
    return [part.strip().rstrip(".").strip() for part in text.split(separator)]


def last_number(text: str) -> int | None:
    """Return the last whole number in a text, or None."""
    found = re.findall(r"-?\d+", text)
    return int(found[-1]) if found else None


def _same(one: str, two: str) -> bool:
    return one.strip().rstrip(".").casefold() == two.strip().rstrip(".").casefold()


def _has(answer: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(text)}(?!\w)", answer, re.IGNORECASE) is not None


def _items(answer: str, rule: Rule, _: str) -> bool:
    found = items(answer, rule.get("separator", ","))
    allowed = rule.get("among")
    lowered = {one.casefold() for one in found}
    known = allowed is None or lowered <= {one.casefold() for one in allowed}
    return bool(known and all(found) and len(found) == rule["count"] == len(set(found)))


def _previous(answer: str, rule: Rule, previous: str) -> bool:
    """The answer must be the first answer after a change; the case counts only where the change is about it."""
    wanted, how = change(previous, rule["change"]), rule["change"]
    return answer == wanted if how in ("upper", "lower") else _same(answer, wanted)


def _previous_number(answer: str, rule: Rule, previous: str) -> bool:
    before, by, operator = last_number(previous), int(rule["by"]), rule["operator"]
    if before is None:
        return False
    return last_number(answer) == {"+": before + by, "-": before - by, "*": before * by}[operator]


CHECKS: dict[str, Check] = {
    "equals": lambda answer, rule, _: _same(answer, rule["text"]),
    "one_of": lambda answer, rule, _: any(_same(answer, text) for text in rule["texts"]),
    "contains": lambda answer, rule, _: _has(answer, rule["text"]),
    "lacks": lambda answer, rule, _: bool(answer) and not _has(answer, rule["text"]),
    "starts": lambda answer, rule, _: answer.casefold().startswith(rule["text"].casefold()),
    "ends": lambda answer, rule, _: answer.casefold().endswith(rule["text"].casefold()),
    "items": _items,
    "lines": lambda answer, rule, _: len([line for line in answer.split("\n") if line.strip()]) == rule["count"],
    "words": lambda answer, rule, _: len(answer.split()) == rule["count"],
    "sentences": lambda answer, rule, _: len(re.findall(r"[.!?](?=\s|$)", answer)) == rule["count"],
    "number": lambda answer, rule, _: last_number(answer) == rule["value"],
    "upper": lambda answer, rule, _: answer.isupper(),
    "lower": lambda answer, rule, _: answer.islower(),
    "new": lambda answer, rule, previous: bool(answer) and not _has(previous, answer.rstrip(".")),
    "previous": _previous,
    "previous_number": _previous_number,
    "all": lambda answer, rule, previous: all(follows(answer, one, previous=previous) for one in rule["rules"]),
}

CHANGES: dict[str, Callable[[str], str]] = {
    "upper": str.upper,
    "lower": str.lower,
    "sorted": lambda text: ", ".join(sorted(items(text), key=str.casefold)),
    "reversed": lambda text: ", ".join(reversed(items(text))),
    "first": lambda text: items(text)[0],
    "last": lambda text: items(text)[-1],
    "semicolons": lambda text: "; ".join(items(text)),
    "without_first": lambda text: ", ".join(items(text)[1:]),
    "first_word": lambda text: (text.split() or [""])[0],
    "exclaimed": lambda text: text.rstrip(".") + "!",
}
