"""Slot errors: facts that a text leaves out, repeats, or gets wrong.

A slot is a name with a value, such as area and riverside. A text names a value if it contains it, or a phrase for it
from a table. The phrases for restaurants are ours, for the slots of the E2E challenge (Novikova et al. 2017,
arXiv:1706.09254), so compare methods with each other and not with published slot error rates.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

Phrases = Mapping[str, Mapping[str, str]]  # the patterns of all values of a slot, by the slot's name and the value

_CUSTOMERS = r"(?:customer |customers )?"
_RATED = rf"{_CUSTOMERS}rat(?:ed|ing|ings)(?: is| are| of| as| it)*(?: a| an| very)? "
_CHILDREN = r"(?:famil(?:y|ies)|kids?|child|children)"
_GOOD = r"(?:friendly|good|suitable|great|recommended)"
_NOT = r"(?:not?|non|isn't|never)"


def _levels(*levels: tuple[tuple[str, ...], str]) -> dict[str, str]:
    """Return the pattern of each value; the values of a level are said in the same words."""
    return {value: pattern for values, pattern in levels for value in values}


def _rating(level: str, number: str) -> str:
    return (rf"{level}(?:ly)? {_CUSTOMERS}rat\w+|{_RATED}{level}(?:ly)?|"
            rf"{number} (?:out )?(?:of |/ ?)?(?:5|five)|{number} stars?")


RESTAURANTS: Phrases = {
    "eatType": {"restaurant": "restaurant", "pub": "pub", "coffee shop": "(?:coffee|caf[eé]) (?:shop|house)"},
    "food": {"chinese": "chinese", "english": "english|british", "fast food": "fast food", "french": "french",
             "indian": "indian", "italian": "italian", "japanese": "japanese"},
    "priceRange": _levels(
        (("cheap", "less than £20"), r"cheap\w*|inexpensive|low(?:er)? (?:pric|cost)\w*|"
                                     "(?:less than|under|below) £? ?20"),
        (("moderate", "£20 25"), r"moderate(?:ly)?(?! (?:customer|rat))|mid(?:dle)? (?:range|pric)\w*|"
                                 r"average(?:ly)? pric\w*|£? ?20 (?:to |and )?£? ?25"),
        (("high", "more than £30"), r"expensive|pricey|high(?:ly|er)? (?:pric|cost)\w*|"
                                    r"pric\w+(?: range)?(?: is| are)? high|(?:more than|over|above) £? ?30")),
    "customer rating": _levels((("low", "1 out of 5"), _rating("(?:low|poor)", "(?:1|one)")),
                               (("average", "3 out of 5"), _rating("average", "(?:3|three)")),
                               (("high", "5 out of 5"), _rating("(?:high|excellent)", "(?:5|five)"))),
    "area": {"city centre": "(?:city|town) (?:centre|center)|(?:centre|center) of (?:the )?(?:city|town)|"
                            "downtown",
             "riverside": "river ?side|(?:by|near) the river|river ?bank"},
    "familyFriendly": {
        "yes": f"{_CHILDREN} (?:friendly|welcome)|{_GOOD} (?:to|for|with) {_CHILDREN}|welcomes? {_CHILDREN}|"
               f"{_CHILDREN} (?:are|is) welcome",
        "no": f"{_NOT} (?:a |very )?{_CHILDREN} (?:friendly|welcome)|{_NOT} {_GOOD} (?:to|for|with) {_CHILDREN}|"
              f"(?:not|n't) (?:welcome|allow) {_CHILDREN}|{_CHILDREN} (?:are|is) not (?:welcome|allowed)|"
              f"adults? only|no {_CHILDREN}"},
}
REPEATED = ("name",)  # what a text is about may be named again
NEUTRAL = (("eatType", "restaurant"),)  # a word that is used for all of them


class SlotErrors(NamedTuple):
    """The numbers of slots that a text leaves out, repeats, and gets wrong or invents."""

    missing: int
    repeated: int
    wrong: int


def slot_errors(text: str, slots: Sequence[Sequence[str]], phrases: Phrases) -> SlotErrors:
    """Count the slot errors of a text that should name all `slots`, pairs of name and value.

    A slot with another value of its own is wrong, not missing; each value of a slot that is not among `slots` is wrong
    too. A value that is named twice is repeated once.
    """
    left, missing, repeated, wrong = _plain(text), 0, 0, 0
    wanted = {name: _plain(value) for name, value in slots}
    for name in (name for name in wanted if name not in phrases):  # names first: they may contain words of other slots
        left, count = re.subn(_whole(re.escape(wanted[name].removeprefix("the "))), " · ", left)
        missing, repeated = missing + (not count), repeated + (count > 1 and name not in REPEATED)
    for name, values in phrases.items():
        found = [value for value in _named(left, values, wanted.get(name)) if (name, value) not in NEUTRAL
                 or value == wanted.get(name)]
        missing, repeated = missing + (name in wanted and not found), repeated + (found.count(wanted.get(name, "")) > 1)
        wrong += len({*found} - {wanted.get(name)})
    return SlotErrors(missing, repeated, wrong)


def _named(text: str, values: Mapping[str, str], wanted: str | None) -> Iterator[str]:
    """Yield the value of each phrase in a text, without phrases inside longer ones; `wanted` wins equal ones."""
    patterns = values if wanted is None or wanted in values else {**values, wanted: re.escape(wanted)}
    spans = [(one.start(), one.end(), value) for value, pattern in patterns.items()
             for one in re.finditer(_whole(pattern), text)]
    spans.sort(key=lambda one: (one[0] - one[1], one[2] != wanted))  # longest first
    kept = list[tuple[int, int, str]]()
    for start, end, value in spans:
        if not any(start < other_end and other_start < end for other_start, other_end, _ in kept):
            kept.append((start, end, value))
    yield from (value for _, _, value in sorted(kept))


def _whole(pattern: str) -> str:
    return rf"(?<!\w)(?:{pattern})(?!\w)"


def _plain(text: str) -> str:
    """Return a text in lower case, with single spaces in place of hyphens, dashes and white space."""
    return " ".join(re.sub(r"[-\u2010-\u2015]", " ", text.lower()).split())
