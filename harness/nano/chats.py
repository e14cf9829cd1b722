"""Two-turn chats over eight categories, with instructions that a rule can check."""

import random
from collections.abc import Callable

from harness.nano.chat_facts import extraction, humanities, stem
from harness.nano.chat_logic import coding, mathematics, reasoning
from harness.nano.chat_turns import Turn
from harness.nano.chat_writing import roleplay, writing
from harness.nano.problem import Problem

CATEGORIES: dict[str, Callable[[random.Random], tuple[Turn, Turn]]] = {
    "writing": writing,
    "roleplay": roleplay,
    "reasoning": reasoning,
    "math": mathematics,
    "coding": coding,
    "extraction": extraction,
    "stem": stem,
    "humanities": humanities,
}


def draw(rng: random.Random) -> Problem:
    """Return one random chat."""
    category = rng.choice(list(CATEGORIES))
    one, two = CATEGORIES[category](rng)
    check: dict[str, object] = {"category": category, "turns": [one.rule, two.rule]}
    return Problem("", (one.prompt, two.prompt), (one.answer, two.answer), check)
