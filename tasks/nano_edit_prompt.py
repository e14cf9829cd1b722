"""Questions about a text that was edited after it was read, written by the project for its embedded models.

A problem: the text as it was first, its edit, the prompt, and the reference answer:

    Text: Tom found a brown hat in the village. The museum was closed on Saturday. Adam has nine toys. Mia sang.
    brown -> green
    Text: Tom found a green hat in the village. The museum was closed on Saturday. Adam has nine toys. Mia sang.
    Summary of Tom: Tom found a green hat in the village.

The prompt has the new text only; a strategy that keeps the cache of the old one and mends it, as PIE does (Positional
Integrity Encoding, arXiv:2407.03157), gets old text and edits as `RequestText.parts`. The texts are test problems of
`nano_summary` in at least four blocks; the edit always changes the answer. It is another word of the same kind
(`replace`), a sentence more about the subject (`insert`), one less (`delete`), or a word and a sentence (`both`).
Results are shown by the distance from the last edit to the end of the prompt, in tokens of nano.
"""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from typing import TYPE_CHECKING, ClassVar

from harness.nano.corpus import problems
from harness.nano.passages import ANIMAL, ANIMALS, PERSON, PLACE, WORDS, Topic, sentence
from harness.nano.problem import Problem
from harness.nano.sizes import tokens
from harness.nano.summaries import PRONOUNS, sentences_of, summary
from harness.plugins.data import DataSource
from harness.plugins.prompt_parts import Edit, PromptParts, Span, edited
from harness.plugins.task import Example, Task, knob

if TYPE_CHECKING:
    from harness.scoring.copying import NewText

KINDS = ("replace", "insert", "delete", "both")
FEWEST = 4  # blocks of sentences
SLOTS = {word: slot for slot, options in WORDS.items() for word in options}
HEAD = "Text: "


@dataclass(frozen=True)
class NanoEditPrompt(Task):
    """200 edited texts; the headline is the share of answers that say what is in the new text, `stale` of old ones."""

    kind: str = knob("all", "the kind of edit", choices=("all", *KINDS), sweep=KINDS)
    filler: int = knob(2, "sentences about others behind the text, which lie between the edit and the question", low=0,
                       high=40, sweep=(0, 2, 4, 8))

    version = 1
    source = "decodebench, harness/nano/corpus.py"
    headline = "current"
    max_new_tokens = 128
    stop = ("\n",)
    sub_tasks: ClassVar[dict[str, str] | None] = {}  # each range of distances is one

    def examples(self, data: DataSource) -> list[Example]:
        """Return the first 200 edited texts, the kinds of edit in turn for each problem."""
        kinds = KINDS if self.kind == "all" else (self.kind,)
        made = (_example(_filled(problem, self.filler), kind)
                for problem in problems("summary", "test", 200) for kind in kinds)
        return list(islice((one for one in made if one), 200))

    def parts(self, example: Example, answers: Sequence[str]) -> PromptParts:
        """Return the prompt before the edits, and the edits."""
        edits = tuple(Edit(Span(start, end), text) for start, end, text in example.gold["edits"])
        return PromptParts(earlier=example.gold["earlier"], edits=edits)

    def metric(self) -> "NewText":
        """Return the metric, which compares the answer with those to the new text and to the old one."""
        from harness.scoring.copying import NewText

        return NewText()


def _filled(problem: Problem, count: int) -> Problem:
    """Return a problem with sentences of other ones behind its text."""
    text, _, question = problem.turns[0].partition("\n")
    subject = question.rstrip(":").split()[-1].lower()
    others = (one for other in problems("summary", "test", 40) if other is not problem
              for one in sentences_of(other.turns[0])[0])
    hay = (one for one in others if one.split()[0] not in PRONOUNS and subject not in one.lower() and one not in text)
    return replace(problem, turns=("\n".join([" ".join([text, *islice(hay, count)]), question]),))


def _example(problem: Problem, kind: str) -> Example | None:
    """Return a problem with an edit of this kind in what it asks for; None if its text is too short for that."""
    before, name = sentences_of(problem.turns[0])
    if sum(one.split()[0] not in PRONOUNS for one in before) < FEWEST:
        return None
    rng, wanted = random.Random(f"{kind}/{problem.id}"), summary(before, name)
    replaced = [_replacement(rng, before, wanted, name)] if kind in ("replace", "both") else []
    moved = [_insertion(rng, before, wanted, name)] if kind in ("insert", "both") else \
        [_deletion(rng, before, wanted)] if kind == "delete" else []
    edits = sorted(one for one in (*replaced, *moved) if one)
    if len(edits) < len(replaced) + len(moved):
        return None
    earlier = problem.turns[0]
    now = edited(earlier, edits)
    came, gone = ([one.strip() for one in texts if one] for texts in zip(*(
        (edit.text, edit.span.of(earlier)) for edit in edits), strict=True))
    gold = {"text": " ".join(summary(*sentences_of(now))), "old": " ".join(wanted), "came": came,
            "gone": gone, "kind": kind, "earlier": earlier, "edits": [[*edit.span, edit.text] for edit in edits]}
    return Example(id=f"edited/{problem.id.rpartition('/')[2]}/{kind}", turns=(now,), gold=gold,
                   category=_distance(tokens(earlier[edits[-1].span.end:])))


def _distance(count: int) -> str:
    return next((f"{low}-{low + 50}" for low in (0, 50, 100) if count < low + 50), "150+")


def _starts(before: Sequence[str]) -> list[int]:
    """Return the place of each sentence in the prompt, and of one that would follow."""
    return list(accumulate((len(one) + 1 for one in before), initial=len(HEAD)))


def _replacement(rng: random.Random, before: Sequence[str], wanted: Sequence[str], name: str) -> Edit | None:
    """Replace a word that the text has once, behind the first two of a sentence, by another of its kind."""
    words, found = Counter(re.findall(r"\w+", f"{name} {' '.join(before)}")), list[Edit]()
    for one, start in zip(before, _starts(before), strict=False):
        for match in re.finditer(r"(?<= )\w+", one) if one in wanted else ():
            new = [other for other in WORDS[SLOTS.get(match.group(), "time")] if other not in words]
            if match.group() in SLOTS and words[match.group()] == 1 and new and one[:match.start()].count(" ") > 1:
                found.append(Edit(Span(start + match.start(), start + match.end()), rng.choice(new)))
    return rng.choice(found) if found else None


def _insertion(rng: random.Random, before: Sequence[str], wanted: Sequence[str], name: str) -> Edit:
    """Put a sentence about the subject before a block, at the latest behind the last about the subject."""
    patterns = PLACE if (bare := name.removeprefix("the ")) in WORDS["place"] else \
        ANIMAL if bare in ANIMALS else PERSON
    topic = Topic(name, name[0].upper() + name[1:], "", rng.sample(patterns, len(patterns)))
    new = sentence(rng, topic, unnamed={one.split()[one.startswith("The ")] for one in before} | {bare})
    starts, last = _starts(before), 1 + max(i for i, one in enumerate(before) if one in wanted)
    i = rng.choice([i for i in range(last + 1) if i == last or before[i].split()[0] not in PRONOUNS])
    place = starts[i] - (at_end := i == len(before))
    return Edit(Span(place, place), f" {new}" if at_end else f"{new} ")


def _deletion(rng: random.Random, before: Sequence[str], wanted: Sequence[str]) -> Edit | None:
    """Take out one of several sentences about the subject, none that a pronoun follows."""
    starts, last = _starts(before), len(before) - 1
    loose = [i for i, one in enumerate(before) if one in wanted and (i == last or before[i + 1] not in wanted)]
    if len(wanted) < 2:
        return None
    i = rng.choice(loose)
    return Edit(Span(starts[i] - (i == last), starts[i + 1] - (i == last)), "")
