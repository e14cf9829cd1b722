"""Grade-school word problems with eight worked examples before each (GSM8K, chain of thought).

A row:

    {"question": "A box holds 12 eggs. How many eggs are in 4 boxes?",
     "answer": "There are 12 * 4 = <<12*4=48>>48 eggs.\\n#### 48"}

The conventions are those of `gsm8k_cot` (version 3) in EleutherAI's lm-evaluation-harness: the eight fixed examples of
Wei et al. (arXiv:2201.11903), joined by a blank line; `flexible` is its flexible-extract, `strict` its strict-match,
`only_flexible` and `only_strict` are the answers that only one of them accepts. We allow 512 new tokens;
lm-evaluation-harness uses 256 (`--max-new-tokens 256`). `gsm8k_5shot`, `gsm8k_zeroshot` and `gsm8k_chat` have the same
problems with other prompts. `-s temperature:temperature=0.2+self_consistency:n=64` is close to its
`gsm8k_cot_self_consistency`, which stops at a blank line and votes with the number in the phrase, not the last one.
"""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from harness.plugins.data import DataSource, Hub, Row
from harness.plugins.task import Example, Message, Task

if TYPE_CHECKING:
    from harness.scoring.metrics import GSM8KAnswer

FIELDS = {"question": str, "answer": str}
EXAMPLES = Path(__file__).parent / "data" / "gsm8k_cot.json"
HUB = Hub(
    repo="openai/gsm8k",
    config="main",
    split="test",
    revision="e53f048856ff4f594e959d75785d2c2d37b678ee",
    rows_sha256="524c11ab4ee19ae27e71a10fff523a583dbba0a714e6be0ff2518668c0071daa",
)


@dataclass(frozen=True)
class GSM8K(Task):
    """1,319 test problems; the headline is the share whose last number is right."""

    version = 1
    source = "Cobbe et al. 2021, arXiv:2110.14168; openai/gsm8k, MIT"
    headline = "flexible"
    max_new_tokens = 512
    stop: ClassVar[tuple[str, ...]] = ("Q:", "</s>", "<|im_end|>")

    def examples(self, data: DataSource) -> list[Example]:
        """Return the test problems in published order."""
        rows = data.rows("gsm8k", "test.jsonl", HUB, FIELDS, check=problem)
        return [
            Example(id=f"gsm8k/{number}", turns=(row["question"],), gold={"answer": _final(row)})
            for number, row in enumerate(rows)
        ]

    def prompt(self, example: Example, answers: Sequence[str]) -> str | list[Message]:
        """Return the eight worked examples, then the question."""
        return "".join(self.exemplars(example)) + ask(example.turns[0])

    def exemplars(self, example: Example) -> Sequence[str]:
        """Return the eight worked examples."""
        return [f"{ask(row['question'])} {row['answer']}\n\n" for row in worked_examples()]

    def answer(self, example: Example, text: str) -> str | None:
        """Return the last number."""
        from harness.scoring.metrics import GSM8KAnswer

        return GSM8KAnswer.last_number(text)

    def metric(self) -> "GSM8KAnswer":
        """Return the metric; `strict` needs the phrase at the end of the worked examples."""
        from harness.scoring.metrics import GSM8KAnswer

        return GSM8KAnswer(r"The answer is (\-?[0-9\.\,]+).")


def ask(question: str) -> str:
    """Return a question in the format of the chain-of-thought variants."""
    return f"Q: {question}\nA:"


@functools.cache
def worked_examples() -> tuple[Row, ...]:
    """Load the eight worked examples of Wei et al., each a `question` and an `answer`."""
    return tuple(json.loads(EXAMPLES.read_text(encoding="utf-8")))


def problem(row: Row) -> str | None:
    """Return the error of a row, or None."""
    return None if "####" in row["answer"] and _final(row) else "the answer does not end in '#### ' and a number"


def _final(row: Row) -> str:
    return str(row["answer"]).split("####")[-1].strip()
