"""Open-ended stories: an opening with many continuations, and facts that must stay true.

Sentences are drawn with a skewed frequency, and some are said again, as in human text: a model learns from both what
makes its argmax go round in circles. See `story_judge` for what counts as a right sentence.
"""

import itertools
import random
from collections.abc import Sequence

from harness.nano.problem import Problem
from harness.nano.story_moves import AGAIN, CLOSINGS, FOLLOWS, MOVES, OPENINGS
from harness.nano.story_patterns import Pattern, word
from harness.nano.story_state import GOAL, PERSON, SONG, State, Values
from harness.nano.story_words import NAMES, WORDS

SENTENCES = (18, 25)
REFRAIN = 0.06  # share of sentences that say an earlier one again
_LIKELIER = 24.0  # by how much the scene is that follows the last one
_SHARES = {
    scene: tuple(
        itertools.accumulate(
            (_LIKELIER if move.scene == likely else 1.0) / (place + 4) for place, move in enumerate(MOVES)
        )
    )
    for scene, likely in FOLLOWS.items()
}

Sentence = tuple[Pattern, Values]


def draw(rng: random.Random) -> Problem:
    """Return one random story: its opening as the prompt, the rest as the answer."""
    opening, state = begin(rng)
    check = state.check()
    return Problem("", (opening,), (" " + " ".join(go_on(rng, state)),), check)


def begin(rng: random.Random) -> tuple[str, State]:
    """Return the opening of a story and the state after it."""
    patterns = [rng.choice(group) for group in OPENINGS]
    slots = {slot for pattern in patterns for slot in pattern.slots}
    values: Values = {}
    for slot in sorted(slots | {"who", "who2", "here"}):  # a set of texts has no order that repeats
        taken = {value for other, value in values.items() if word(other) == word(slot)}
        values[slot] = rng.choice([one for one in WORDS[word(slot)] if one not in taken])
    cast = [[values.get(slot + mark, "") for slot in PERSON] for mark in ("", "2")]
    things = [
        [values["who" + mark], values["thing" + mark], values["color" + mark]]
        for mark in ("", "2")
        if "thing" + mark in values
    ]
    goal, song = ([values[slot] for slot in group if slot in values] for group in (GOAL, SONG))
    state = State(values["here"], cast, things, goal, song)
    facts = state.people()[0]
    values |= {slot: facts[slot] for slot in ("kind", "his") if slot in slots}
    return " ".join(pattern.text.format_map(values) for pattern in patterns), state


def go_on(rng: random.Random, state: State) -> list[str]:
    """Return the sentences after the opening, and update `state` with them."""
    texts: list[str] = []
    told: list[Sentence] = []
    for _ in range(rng.randint(*SENTENCES)):
        again = _again(rng, state, told)
        pattern, values = again or _drawn(rng, state, MOVES, _SHARES[told[-1][0].scene if told else "start"])
        text = pattern.text.format_map(values)
        texts.append(once_more(rng, text) if again else text)
        state.tell(values)
        told.append((pattern, values))
    pattern, values = _drawn(rng, state, CLOSINGS, None)
    return [*texts, pattern.text.format_map(values)]


def once_more(rng: random.Random, text: str) -> str:
    """Return the sentence for a repetition, sometimes after words such as "Once more"."""
    if rng.random() < 0.5 or not text.startswith(("They ", "The ", *NAMES)):
        return text
    return rng.choice(AGAIN) + (text if text.startswith(NAMES) else text[0].lower() + text[1:])


def _again(rng: random.Random, state: State, told: list[Sentence]) -> Sentence | None:
    """Return an earlier sentence that is still true, now and then."""
    if told and rng.random() < REFRAIN:
        for pattern, values in rng.choices(told, k=4):
            if pattern.agree(values, state) is not None:
                return pattern, values
    return None


def _drawn(rng: random.Random, state: State, patterns: Sequence[Pattern], shares: Sequence[float] | None) -> Sentence:
    """Return a new sentence of one of these patterns; those that need what the story has not are drawn again."""
    while True:
        (pattern,) = rng.choices(patterns, cum_weights=shares)
        values = pattern.fill(rng, state)
        if values is not None:
            return pattern, values
