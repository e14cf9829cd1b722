"""Sentence patterns: text with slots, which can be filled for a story and recognised in a text."""

import functools
import itertools
import random
import re
import string
from dataclasses import dataclass

from harness.nano.story_state import CHANGES, State, Values, skewed
from harness.nano.story_words import FREE, WORDS


@dataclass(frozen=True)
class Pattern:
    """A sentence with slots in braces; `scene` is what it is about."""

    scene: str
    text: str

    @functools.cached_property
    def slots(self) -> list[str]:
        """The slots, each once, in the order of the text."""
        return list(dict.fromkeys(slot for _, slot, _, _ in string.Formatter().parse(self.text) if slot))

    @functools.cached_property
    def people(self) -> dict[str, list[str]]:
        """The slots about each person of the sentence, by the digit at their end and without it."""
        found: dict[str, list[str]] = {}
        for slot in self.slots:
            if word(slot) not in FREE and slot not in CHANGES:
                found.setdefault(slot[len(word(slot)) :], []).append(word(slot))
        return found

    @functools.cached_property
    def changes(self) -> list[str]:
        """The slots that change the story, in the order in which they are filled."""
        return [slot for slot in CHANGES if slot in self.slots]

    @functools.cached_property
    def free(self) -> list[str]:
        """The slots that take any word, whatever the story."""
        return [slot for slot in self.slots if word(slot) in FREE]

    def others(self, slot: str, values: Values) -> set[str]:
        """Return the words of the other free slots of the same kind: none of them may be said twice."""
        return {values[one] for one in self.free if one != slot and word(one) == word(slot) and one in values}

    @functools.cached_property
    def regex(self) -> re.Pattern[str]:
        """A regular expression for all sentences of this pattern with known words; each slot is a group."""
        source, seen = "", set()
        for literal, slot, _, _ in string.Formatter().parse(self.text):
            source += re.escape(literal)
            if slot in seen:
                source += f"(?P={slot})"
            elif slot:
                source += f"(?P<{slot}>{'|'.join(WORDS[word(slot)])})"
                seen.add(slot)
        return re.compile(source)

    def fill(self, rng: random.Random, state: State) -> Values | None:
        """Return random values for all slots that agree with the story, or None where there are none."""
        values: Values = {}
        known = state.people()
        for mark, slots in self.people.items():
            taken = {value for slot, value in values.items() if word(slot) == "who"}
            fitting = [one for one in known if one["who"] not in taken and all(slot in one for slot in slots)]
            if not fitting:
                return None
            values |= marked(skewed(rng, fitting), ["who", *slots], mark)
        for slot in self.changes:
            options = CHANGES[slot](state, values)
            if not options:
                return None
            values[slot] = skewed(rng, options)
        for slot in self.free:
            others = self.others(slot, values)
            values[slot] = skewed(rng, [one for one in FREE[word(slot)] if one not in others])
        return values

    def agree(self, values: Values, state: State) -> Values | None:
        """Return the values with the names of all that they speak of, or None where they contradict the story."""
        if any(values[slot] in self.others(slot, values) for slot in self.free):
            return None
        known = state.people()
        fitting = [
            [one for one in known if all(one.get(slot) == values[slot + mark] for slot in slots)]
            for mark, slots in self.people.items()
        ]
        for chosen in itertools.product(*fitting):
            whole = dict(values)
            for (mark, slots), one in zip(self.people.items(), chosen, strict=True):
                whole |= marked(one, ["who", *slots], mark)
            if len({one["who"] for one in chosen}) == len(chosen) and all(
                whole[slot] in CHANGES[slot](state, whole) for slot in self.changes
            ):
                return whole
        return None


def word(slot: str) -> str:
    """Return the slot without the digit that distinguishes several slots of one kind."""
    return slot.rstrip("0123456789")


def marked(facts: Values, slots: list[str], mark: str) -> Values:
    """Return the facts for these slots, under the names that they have in a pattern."""
    return {slot + mark: facts[slot] for slot in slots}
