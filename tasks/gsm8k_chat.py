"""Grade-school word problems as a chat in which eight were solved before (GSM8K, for chat models).

A row is that of `gsm8k`. The conventions are those of `gsm8k_cot_llama` (version 4) in EleutherAI's
lm-evaluation-harness with `--apply_chat_template --fewshot_as_multiturn`, which are Meta's for Llama 3.1: each of the
eight worked examples of `gsm8k` is a user turn and an assistant turn. `strict` takes the last number after "The final
answer is".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.plugins.task import Example, Message
from tasks.gsm8k import GSM8K, worked_examples

if TYPE_CHECKING:
    from harness.scoring.metrics import GSM8KAnswer

ASK = ("Given the following problem, reason and give a final answer to the problem.\nProblem: {}\nYour response should "
       'end with "The final answer is [answer]" where [answer] is the response to the problem.\n')


@dataclass(frozen=True)
class GSM8KChat(GSM8K):
    """1,319 test problems; the headline is the share whose last number is right."""

    chat = True
    stop = ("<|eot_id|>", "<|start_header_id|>user<|end_header_id|>", "Q:", "</s>", "<|im_end|>")

    def prompt(self, example: Example, answers: Sequence[str]) -> list[Message]:
        """Return the eight solved problems, then the question."""
        messages = []
        for row in worked_examples():
            solved = row["answer"].replace("The answer is", "The final answer is").removesuffix(".")
            messages += [{"role": "user", "content": ASK.format(row["question"])},
                         {"role": "assistant", "content": solved}]
        return [*messages, {"role": "user", "content": ASK.format(example.turns[0])}]

    def metric(self) -> "GSM8KAnswer":
        """Return the metric; `strict` takes the last phrase, not the first."""
        from harness.scoring.metrics import GSM8KAnswer

        return GSM8KAnswer(r"The final answer is ((-?[$0-9.,]{2,})|(-?[0-9]+))", last=True)
