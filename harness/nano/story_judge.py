"""Checks the sentences of a story against the facts of its opening."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.nano.story_moves import AGAIN, CLOSINGS, MOVES
from harness.nano.story_patterns import Pattern
from harness.nano.story_state import State, Values

# Speech that ends with a question goes on with a small letter: "Who lives here?" asked Tom.
_BETWEEN = re.compile(r'(?<=[.!?])\s+|(?<=[.!?]")\s+(?=["A-Z])')
_END = re.compile(r'[.!?]"?$')
_LONGEST = 30  # words; no sentence of a pattern is as long


@dataclass(frozen=True)
class Verdict:
    """A verdict on a sentence: `known` (a pattern with known words), `consistent` (known, true), `new` (no repeat)."""

    text: str
    known: bool
    consistent: bool
    new: bool


def judge(check: Mapping[str, Any], text: str) -> list[Verdict]:
    """Return a verdict on each sentence of `text`, the story after an opening with the facts `check`.

    What a consistent sentence says is true from then on; any other sentence changes nothing. A sentence that starts
    with "Once more" or the like says an earlier one again, or is not consistent.
    """
    state = State.of(check)
    found: list[Verdict] = []
    said: set[str] = set()
    for sentence in sentences(text):
        core = _core(sentence)
        readings = _readings(core)
        agreed = [pattern.agree(values, state) for pattern, values in readings]
        true = next((values for values in agreed if values is not None), None)
        consistent = true is not None and (core == sentence or core in said)
        if true is not None and consistent:
            state.tell(true)
        found.append(Verdict(sentence, bool(readings), consistent, core not in said))
        said.add(core)
    return found


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, without a last one that was cut short.

    An unfinished end that is longer than any sentence was not cut short, it runs on, so it stays.
    """
    found = [sentence for sentence in _BETWEEN.split(text.strip()) if sentence]
    if found and not _finished(found[-1]) and len(found[-1].split()) <= _LONGEST:
        found.pop()
    return found


def _finished(sentence: str) -> bool:
    return _END.search(sentence) is not None and sentence.count('"') % 2 == 0


def _core(sentence: str) -> str:
    """Return the sentence without the words that say it comes again."""
    for again in AGAIN:
        if sentence.startswith(again):
            core = sentence.removeprefix(again)
            return core[:1].upper() + core[1:]
    return sentence


def _readings(sentence: str) -> list[tuple[Pattern, Values]]:
    """Return every pattern that the sentence follows, with the words in its slots."""
    matches = ((pattern, pattern.regex.fullmatch(sentence)) for pattern in (*MOVES, *CLOSINGS))
    return [(pattern, match.groupdict()) for pattern, match in matches if match]
