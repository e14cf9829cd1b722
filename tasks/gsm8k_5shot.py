"""Grade-school word problems, each after five others drawn from the training set (GSM8K, five shots).

A row, of `train.jsonl` too, is that of `gsm8k`. The conventions are those of `gsm8k` (version 3) in EleutherAI's
lm-evaluation-harness: one generator with seed 1234 draws the five for each test problem in turn, so prompts are
identical. They have no common prefix to share in the KV cache, so this is slower than our `gsm8k`. `strict` needs the
number after `####`, as in the solutions; `original` is the score of the paper's own code, which ignores commas and
nothing else.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.errors import UserError
from harness.plugins.data import DataSource
from harness.plugins.task import Example
from tasks.gsm8k import FIELDS, GSM8K, HUB, problem

if TYPE_CHECKING:
    from harness.scoring.metrics import GSM8KAnswer

SEED, SHOTS = 1234, 5
TRAIN = replace(HUB, split="train", rows_sha256="fced0849c018610984e1493088b43d38ac54c27c1cf387658e947cc40c54248b")


@dataclass(frozen=True)
class GSM8K5Shot(GSM8K):
    """1,319 test problems; the headline is the share whose last number is right."""

    stop = ("Question:", "</s>", "<|im_end|>")

    def examples(self, data: DataSource) -> list[Example]:
        """Return the test problems in published order, each after its five worked examples."""
        pool = data.rows("gsm8k", "train.jsonl", TRAIN, FIELDS, check=problem)
        if len(pool) < SHOTS:
            raise UserError(f"{data.origins['gsm8k']} has fewer than {SHOTS} rows; gsm8k_5shot draws as many from it.")
        problems, generator = super().examples(data), random.Random(SEED)
        examples = []
        for example in problems:
            shots = [f"{_ask(row['question'])} {row['answer']}\n\n" for row in generator.sample(pool, SHOTS)]
            examples.append(replace(example, turns=("".join(shots) + _ask(example.turns[0]),)))
        return examples

    def prompt(self, example: Example, answers: Sequence[str]) -> str:
        """Return the prompt that `examples` has assembled."""
        return example.turns[0]

    def exemplars(self, example: Example) -> Sequence[str]:
        """Return the five worked examples that `examples` has drawn."""
        *shots, _ = re.split(r"(?<=\n\n)(?=Question: )", example.turns[0])
        return shots

    def metric(self) -> "GSM8KAnswer":
        """Return the metric; `strict` needs the number after `####`."""
        from harness.scoring.metrics import GSM8KAnswer

        return GSM8KAnswer()


def _ask(question: str) -> str:
    return f"Question: {question}\nAnswer:"
