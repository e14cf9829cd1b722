"""Long texts: many subjects, some of which are asked for one after the other at the end, and stories in a row."""

import random
from collections.abc import Callable, Iterator, Sequence

from harness.nano.documents import ANSWER_WEIGHT, PROMPT_WEIGHT
from harness.nano.passages import SITES, Topic, sentence, topics
from harness.nano.problem import Problem
from harness.nano.summaries import ASKED, OTHER
from harness.nano.tokenizer import END

Piece = tuple[str, float]  # a text, and the weight of each of its tokens in the loss
APART = 100  # tokens of a text for each question about it


def asked_text(rng: random.Random, size: Callable[[str], int], length: int) -> list[Piece]:
    """Return a text of about `length` tokens, and questions about some of its subjects, each with its answer.

    As in a summary problem, the answer is every sentence about the subject, with those that go on about it with a
    pronoun, and no other sentence names it. Only answers have a weight. `size` returns the tokens of a text.
    """
    asked = topics(rng, max(1, min(len(SITES), length // APART)))
    names = tuple(topic.name.removeprefix("the ") for topic in asked)
    blocks = [(topic.name, _block(rng, topic, names, count)) for topic in asked for count in rng.choice(ASKED)]
    room = length - sum(size(text) for _, text in blocks)
    while room > 0:
        topic = topics(rng, 1)[0]
        if topic.name not in {one.name for one in asked}:
            blocks.append((topic.name, _block(rng, topic, names, rng.choice(OTHER)[0])))
            room -= size(blocks[-1][1])
    rng.shuffle(blocks)
    pieces = [(f"Text: {' '.join(text for _, text in blocks)}", 0.0)]
    for topic in rng.sample(asked, len(asked)):
        answer = "".join(f" {text}" for name, text in blocks if name == topic.name)
        pieces += [(f"\nSummary of {topic.name}:", 0.0), (answer, ANSWER_WEIGHT["summary"]),
                   (END, ANSWER_WEIGHT["summary"])]
    return pieces


def stories_in_a_row(stories: Iterator[Problem], size: Callable[[str], int], length: int) -> list[Piece]:
    """Return stories of `length` tokens or a little more, each with its opening, joined by newlines."""
    pieces, count = list[Piece](), 0
    while count < length:
        story = next(stories)
        pieces += [(story.turns[0], PROMPT_WEIGHT), (f"{story.answers[0]}\n", ANSWER_WEIGHT["story"])]
        count += sum(size(text) for text, _ in pieces[-2:])
    return pieces


def _block(rng: random.Random, topic: Topic, names: Sequence[str], count: int) -> str:
    """Return `count` sentences about a topic, all but the first with its pronoun, and without other `names`."""
    return " ".join(sentence(rng, topic, place > 0, names) for place in range(count))
