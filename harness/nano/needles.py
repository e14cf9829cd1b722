"""Needles in a haystack: sentences about one subject, hidden in a text of sentences about others."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from harness.nano.corpus import problems
from harness.nano.passages import sentence, topics
from harness.nano.problem import Problem
from harness.nano.summaries import PRONOUNS


class Haystack(NamedTuple):
    """A text as the pieces that it joins, `needles` (indices) among them, and the `question` that asks for them."""

    pieces: tuple[str, ...]
    needles: tuple[int, ...]
    question: str
    length: int
    depth: float

    @property
    def wanted(self) -> list[str]:
        """The needles in the order of the text."""
        return [self.pieces[place] for place in self.needles]


class Sought(NamedTuple):
    """What to hide: the needles, the question that asks for them, and the word that no other sentence has."""

    needles: tuple[str, ...]
    question: str
    subject: str


def haystacks(size: Callable[[str], int], lengths: Sequence[int], depths: int, count: int, split: str,
              sentences: int = 1, pronouns: bool = True) -> Iterator[Haystack]:
    """Yield a haystack for each of `count` subjects, length and depth.

    `size` returns the tokens of a sentence, and `lengths` count tokens without the needles. One needle is the summary
    of a problem of the corpus (one to three sentences), at `depths` places evenly spaced from start to end. Several are
    that many `sentences` at different places, anew for each of the `depths`. Without `pronouns` no other sentence
    starts with one, so that none seems to go on about the subject.
    """
    known = problems("summary", split, count + max(lengths) // 12)
    for number, about in enumerate(known[:count]):
        found = _summary(about) if sentences == 1 else _drawn(split, number, sentences)
        hay = (line for other in known if other is not about for line in _sentences(other.turns[0])
               if found.subject not in line.lower() and (pronouns or line.split()[0] not in PRONOUNS))
        lines = list(islice(hay, max(lengths) // 6))  # no sentence has fewer tokens
        sizes = [size(line) for line in lines]
        for length in lengths:
            some = lines[:next((i for i in range(len(sizes)) if sum(sizes[:i]) >= length), len(sizes))]
            for step in range(depths):
                depth = step / max(1, depths - 1)
                splits = [round(len(some) * depth)] if sentences == 1 else \
                    _places(f"{split}/{number}/{length}/{step}", len(some), sentences)
                yield _hidden(some, found, splits, length, depth)


def word_recall(answer: str, text: str) -> float:
    """Return the share of the words of `text` that `answer` has too, in any order and letter case."""
    words = Counter(text.lower().split())
    return (words & Counter(answer.lower().split())).total() / max(1, words.total())


def _summary(about: Problem) -> Sought:
    _, _, question = about.turns[0].partition("\n")
    return Sought((about.answers[0].strip(),), question, question.split()[-1].rstrip(":").lower())


def _drawn(split: str, number: int, count: int) -> Sought:
    rng = random.Random(f"needles/{split}/{number}/{count}")
    topic = topics(rng, 1)[0]
    subject = topic.name.removeprefix("the ")
    texts = tuple(sentence(rng, topic, unnamed=[subject]) for _ in range(count))
    return Sought(texts, f"Summary of {topic.name}:", subject.lower())


def _places(seed: str, lines: int, count: int) -> list[int]:
    return sorted(random.Random(f"places/{seed}").sample(range(lines + 1), count))


def _hidden(lines: Sequence[str], found: Sought, splits: Sequence[int], length: int, depth: float) -> Haystack:
    """Put each needle before the line of its split."""
    pieces = list(lines)
    for needle, split in reversed(list(zip(found.needles, splits, strict=True))):
        pieces.insert(split, needle)
    places = tuple(split + before for before, split in enumerate(splits))
    return Haystack(tuple(pieces), places, found.question, length, depth)


def _sentences(prompt: str) -> list[str]:
    """Return the sentences of the text of a summary problem."""
    text = prompt.partition("\n")[0].removeprefix("Text: ")
    return [f"{line.strip().rstrip('.')}." for line in text.split(". ")]
