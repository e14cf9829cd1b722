"""Numbers and variables hidden in a text of any length, to be repeated: needle tests for real models, without data.

A problem of `kind=single` (its text has a few words only, here):

    A number is hidden in the following text. Remember it, because it is asked for afterwards.
    The museum was closed on Saturday because of the snow. The secret number of brown-hat is 4812093. Adam wrote a
    long letter to the baker about the rain.
    What is the secret number of brown-hat? The secret number of brown-hat is 4812093.

The kinds follow RULER (Hsieh et al. 2024, arXiv:2404.06654; our words, the same structure): `single`, `multikey` (three
numbers of other keys distract), `multivalue` (four numbers of one key), `multiquery` (four keys are asked for) and
`tracking` (a chain of four assignments: all variables with a value). `passkey` is the test of Mohtashami and Jaggi 2023
(arXiv:2305.16300): a number from 1 to 50,000, which must be the first one of the answer. What is asked for lies at
`depths` places, evenly spaced from start to end; what distracts, and kinds that ask for several, lie at random places.

`length` counts tokens of the model, or words, of the prompt without a chat template; in a chat the start of the answer
is given too. Scores are not those of RULER's
data: the task `ruler` reads them.
"""

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.nano.hidden_values import KINDS, drawn, noise, places
from harness.plugins.data import DataSource
from harness.plugins.plugin import per_instance
from harness.plugins.task import Example, Message, Task, knob

if TYPE_CHECKING:
    from harness.scoring.long_texts import Contains


@dataclass(frozen=True)
class Passkey(Task):
    """`depths` times `each` texts; the headline is the share of hidden values that the answers have."""

    kind: str = knob("single", "what is hidden and asked for", choices=KINDS, sweep=KINDS)
    length: int = knob(1024, "the longest prompt, in units", low=64, high=1 << 20, sweep=(512, 1024, 2048, 4096, 8192))
    unit: str = knob("tokens", "unit of the length", choices=("tokens", "words"))
    depths: int = knob(10, "places of what is asked for", low=1, high=1000)
    each: int = knob(5, "texts for each place", low=1, high=1000)
    noise: str = knob("varied", "the other sentences: many, or five that repeat", choices=("varied", "repeated"))
    template: str = knob("plain", "a text that the model continues, or a question in its chat template",
                         choices=("plain", "chat"))

    version = 1
    source = "decodebench, after arXiv:2404.06654 and arXiv:2305.16300"
    headline = "recall"
    max_new_tokens = per_instance(64, lambda task: 10 if task.kind == "passkey" else 64)
    chat = per_instance(False, lambda task: task.template == "chat")

    def examples(self, data: DataSource) -> list[Example]:
        """Return a text for each place, then another for each; without noise if the length is in tokens."""
        made = [Example(id=f"passkey/{number}", turns=("",), gold={"number": number})
                for number in range(self.depths * self.each)]
        return [self._filled(one, _words) for one in made] if self.unit == "words" else made

    def cut(self, example: Example, tokenizer: Any) -> Example | None:
        """Return the example with noise up to the length, if that is in tokens."""
        if self.unit == "words":
            return example
        if not callable(tokenizer):
            raise UserError("passkey counts tokens, but the tokenizer of this model is not known: take unit=words.")
        return self._filled(example, lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False
                                                                )["input_ids"]))

    def prompt(self, example: Example, answers: Sequence[str]) -> str | list[Message]:
        """Return the text and the start of the answer."""
        return self.begun(example.turns[0], example.gold["start"])

    def metric(self) -> "Contains":
        """Return the metric, which looks for the values in the answer."""
        from harness.scoring.long_texts import Contains

        return Contains()

    def _filled(self, example: Example, size: Callable[[str], int]) -> Example:
        """Return the example with as much noise as fits; raises `UserError` if none does."""
        number = example.gold["number"]
        rng, depth = random.Random(f"{example.id}/{self.kind}"), number % self.depths / max(1, self.depths - 1)
        puzzle = drawn(self.kind, rng)
        at = places(self.kind, depth, len(puzzle.needles), rng)
        pool = noise(self.noise)
        first = int(rng.random() * len(pool))

        def text(lines: int) -> str:
            hay = puzzle.text([pool[(first + i) % len(pool)] for i in range(lines)], at)
            return f"{puzzle.before}\n{hay}\n{puzzle.question}"

        lines = bisect_right(range(1, self.length // 2), self.length, key=lambda n: size(f"{text(n)} {puzzle.start}"))
        if not lines:
            raise UserError(f"passkey: the question alone has about {self.length} {self.unit}; raise length.")
        rule = "first" if self.kind == "passkey" else "all"
        gold = {"values": list(puzzle.values), "rule": rule, "depth": depth, "start": f" {puzzle.start}"}
        return replace(example, turns=(text(lines),), gold=gold)


def _words(text: str) -> int:
    return len(text.split())
