"""The answers of a page, in blocks of examples: each block is unpacked only when one of its prompts is opened."""

import base64
import gzip
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_json

from harness.measure.raw import has_text_only
from harness.report.story import story
from harness.store.schema import Record, StepTree, Turn

BLOCK = 1000  # samples of a block, about
LEVEL = 5  # of gzip: 9 takes five times as long for 12 % less
EMBEDDED = 8_000_000  # letters of compressed answers in the page; further blocks are beside it
Beside = Callable[[str], str]  # writes a block beside the page, and returns its name
Answer = tuple[int, str, int, int]  # number of the cell, example, sample, repeat


class Texts:
    """Numbers texts, so that each is written once."""

    def __init__(self) -> None:
        self.known = dict[str, int]()

    def number(self, text: str) -> int:
        """Return the number of a text, from 0."""
        return self.known.setdefault(text, len(self.known))


@dataclass
class Block:
    """All answers to some examples of a task. `left` is the number of samples that are not added yet.

    Samples are kept as JSON, because those of a long run are all in memory if its examples are not in order. `said` has
    the numbers of an answer's texts.
    """

    left: int = 0
    texts: Texts = field(default_factory=Texts)
    expected: dict[str, int] = field(default_factory=dict)
    samples: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    said: dict[Answer, list[int]] = field(default_factory=dict)

    def add(self, cell: int, record: Record, drafts: bool, trees: Sequence[Sequence[StepTree]]) -> None:
        """Add a sample of a cell; `drafts` tells whether its candidates are drafts."""
        answer = _answer(record, self.texts, drafts, trees)
        if record.error is None:
            self.said[cell, record.example, record.sample, record.repeat] = [turn["text"] for turn in answer["turns"]]
        self.samples[cell].append(_json(answer))
        self.left -= 1

    def differing(self, baselines: Mapping[int, int | None]) -> list[Answer]:
        """Return the answers whose texts are not those of the baseline's cell for the same sample, or for its first."""
        found = []
        for (cell, example, sample, repeat), texts in self.said.items():
            base = baselines[cell]
            if base is not None and base != cell:
                other = self.said.get((base, example, sample, repeat)) or self.said.get((base, example, 0, repeat))
                if other is not None and other != texts:
                    found.append((cell, example, sample, repeat))
        return found

    def packed(self) -> str:
        """Return the block as `compressed` does."""
        cells = ",".join(f'"{cell}":[{",".join(samples)}]' for cell, samples in self.samples.items())
        texts, expected = _json(list(self.texts.known)), _json(self.expected)
        return _packed(f'{{"texts":{texts},"expected":{expected},"cells":{{{cells}}}}}')


class Blocks:
    """The blocks of all tasks, each with about `BLOCK` samples of examples that follow each other.

    `counts` has the number of samples of each (task, example) in order. The first blocks that are complete are in the
    page, those beyond `EMBEDDED` letters are given to `beside`, if there is one.
    """

    def __init__(self, counts: Mapping[tuple[str, str], int], beside: Beside | None) -> None:
        self.numbers = dict[tuple[str, str], int]()  # of the block of an example
        self.open, self.named, self.beside = dict[int, Block](), dict[int, str](), beside
        self.embedded, self.letters, left = dict[str, str](), 0, 0
        self.packing = ThreadPoolExecutor(1)  # beside the reading of records
        self.closed = list[Future[None]]()
        before = None
        for (task, example), count in counts.items():
            if left <= 0 or task != before:
                number, left, before = len(self.open), BLOCK, task
                self.open[number] = Block()
            left -= count
            self.open[number].left += count
            self.numbers[task, example] = number

    def of(self, record: Record) -> Block:
        """Return the block of a record."""
        return self.open[self.numbers[record.task, record.example]]

    def close(self, record: Record) -> None:
        """Compress the block of a record, and put it into the page or beside it, one block after the other."""
        number = self.numbers[record.task, record.example]
        self.closed.append(self.packing.submit(self._place, number, self.open.pop(number)))

    def finish(self) -> None:
        """Wait until all blocks that were closed are in their places."""
        for one in self.closed:
            one.result()
        self.packing.shutdown()

    def _place(self, number: int, block: Block) -> None:
        packed = block.packed()
        self.letters += len(packed)
        if self.beside is None or self.letters <= EMBEDDED:
            self.named[number] = f"block-{number}"
            self.embedded[self.named[number]] = packed
        else:
            self.named[number] = self.beside(packed)

    def names(self, task: str) -> list[str]:
        """Return the name of the block of each example of a task."""
        return [self.named[number] for (one, _), number in self.numbers.items() if one == task]


def compressed(data: Mapping[str, Any]) -> str:
    """Return data as JSON, compressed by gzip and written in base64, which no text can escape from."""
    return _packed(_json(data))


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), LEVEL, mtime=0)).decode()


def _json(data: Any) -> str:
    return to_json(data, inf_nan_mode="null").decode()


def _answer(record: Record, texts: Texts, drafts: bool, trees: Sequence[Sequence[StepTree]]) -> dict[str, Any]:
    return {
        "example": record.example, "sample": record.sample, "repeat": record.repeat, "error": record.error,
        "reason": record.reason, "scores": record.scores,
        "turns": [_turn(turn, texts, drafts, trees[number] if number < len(trees) else ())
                  for number, turn in enumerate(record.turns)],
    }


def _turn(turn: Turn, texts: Texts, drafts: bool, trees: Sequence[StepTree]) -> dict[str, Any]:
    """Return an answer: its whole text, of which the first `end` characters count, or only the text that counts."""
    begins = turn.raw.startswith(turn.text)
    drawn = {tree.step: [[texts.number(text) for text in tree.texts], tree.parents, tree.path] for tree in trees}
    return {"prompt": texts.number(turn.prompt), "text": texts.number(turn.raw if begins else turn.text),
            "end": len(turn.text), "stop": turn.stop, "story": story(turn, drafts) if begins else {},
            **({"trees": drawn} if drawn else {}),
            "tokens": None if has_text_only(turn) else sum(turn.steps.tokens),
            "seconds": round(sum(turn.steps.seconds), 6)}
