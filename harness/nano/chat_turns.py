"""One turn of a chat, and second turns that fit many first turns."""

import random
from typing import NamedTuple

from harness.nano.rules import Rule, change
from harness.nano.words import GROUPS


class Turn(NamedTuple):
    """A prompt, its reference answer and the rule that any answer must follow."""

    prompt: str
    answer: str
    rule: Rule


def both(*rules: Rule) -> Rule:
    """Return the rule that requires all of `rules`."""
    return {"kind": "all", "rules": list(rules)}


def polite(rng: random.Random, prompt: str) -> str:
    """Return the prompt, sometimes with a polite word around it."""
    lowered = prompt[0].lower() + prompt[1:]
    return rng.choice([prompt, prompt, prompt, f"Please {lowered}", f"Now {lowered}", f"Next, {lowered}"])


def about_text(rng: random.Random, answer: str) -> Turn:
    """Return a second turn about a sentence that was written in the first."""
    how, prompts = rng.choice(
        [
            ("upper", ("Write it in upper case.", "Write the same in capital letters.", "Say it in upper case.")),
            ("lower", ("Write it in lower case.", "Use only small letters.", "Say it in lower case.")),
            ("first_word", ("Repeat only the first word.", "Give me just the first word of it.")),
            ("exclaimed", ("End it with an exclamation mark.", "Write it with an exclamation mark at the end.")),
        ]
    )
    rule: Rule = {"kind": "previous", "change": how}
    return Turn(polite(rng, rng.choice(prompts)), change(answer, how), rule)


def naming(rng: random.Random, group: str) -> Turn:
    """Return a first turn that asks for some members of a group."""
    count, word = rng.choice([(2, "two"), (3, "three"), (4, "four"), (5, "five")])
    style = rng.choice(["commas", "commas", "lines", "and"])
    chosen = rng.sample(GROUPS[group], count)
    verb = rng.choice(["Name", "List", "Give me", "Tell me"])
    rule: Rule = {"kind": "items", "count": count, "among": list(GROUPS[group])}
    if style == "lines":
        prompt = f"{verb} {word} {group}, one on each line."
        return Turn(prompt, "\n".join(chosen), rule | {"separator": "\n"})
    if style == "and":
        prompt = f"{verb} {word} {group}, separated by semicolons."
        return Turn(prompt, "; ".join(chosen), rule | {"separator": ";"})
    starts = rng.choice(["", "", " in alphabetical order"])
    if starts:
        chosen = sorted(chosen, key=str.casefold)
    prompt = f"{verb} {word} {group}{starts}, separated by commas."
    return Turn(prompt, ", ".join(chosen), rule | {"separator": ","})


def about_list(rng: random.Random, group: str, answer: str) -> Turn:
    """Return a second turn about a list of members of a group."""
    left = [one for one in GROUPS[group] if one not in answer]
    if "," not in answer or rng.random() < 0.25:
        prompt = rng.choice([f"Name one more of the {group}.", f"Name one of the {group} that is not in your list."])
        rule = both({"kind": "one_of", "texts": list(GROUPS[group])}, {"kind": "new"})
        return Turn(polite(rng, prompt), rng.choice(left), rule)
    how, prompts = rng.choice(
        [
            ("upper", ("Write the list in upper case.", "Write them in capital letters.")),
            ("sorted", ("Sort them alphabetically.", "Put the list in alphabetical order.")),
            ("reversed", ("Write the list backwards, last one first.", "Reverse the order of your list.")),
            ("first", ("Repeat only the first one.", "Which one did you name first?")),
            ("last", ("Repeat only the last one.", "Which one did you name last?")),
            ("semicolons", ("Use semicolons instead of commas.", "Separate them by semicolons.")),
            ("without_first", ("Leave out the first one.", "Remove the first one from the list.")),
        ]
    )
    rule = {"kind": "previous", "change": how}
    prompt = rng.choice(prompts)
    return Turn(prompt if prompt.startswith("Which") else polite(rng, prompt), change(answer, how), rule)
