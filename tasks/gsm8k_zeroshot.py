"""Grade-school word problems asked to be solved step by step, without worked examples (GSM8K, zero-shot).

A row is that of `gsm8k`. The conventions are those of `gsm8k_cot_zeroshot` (version 3) in EleutherAI's
lm-evaluation-harness: the answer begins with the sentence of Kojima et al. (arXiv:2205.11916), and stop strings and
scores are those of `gsm8k`. Few models write its phrase unprompted, so `strict` is rarely useful here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.plugins.task import Example
from tasks.gsm8k import GSM8K, ask


@dataclass(frozen=True)
class GSM8KZeroShot(GSM8K):
    """1,319 test problems; the headline is the share whose last number is right."""

    def prompt(self, example: Example, answers: Sequence[str]) -> str:
        """Return the question and the start of its answer."""
        return f"{ask(example.turns[0])} Let's think step by step."

    def exemplars(self, example: Example) -> Sequence[str]:
        """Return nothing: no worked examples precede the question."""
        return ()
