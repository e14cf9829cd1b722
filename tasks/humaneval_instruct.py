"""HumanEval as a chat, for instruction-tuned models: the model goes on with an answer that has begun.

A row is that of `humaneval`. The conventions are those of `humaneval_instruct` in lm-evaluation-harness with
`--apply_chat_template`: the user asks for a solution, and the assistant's answer starts with an open code block and the
function. The completion ends at the end of the code block, or at a stop string of `humaneval`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.plugins.task import Example, Message
from tasks.humaneval import HumanEval

ASK = "Write a solution to the following problem and make sure that it passes the tests:\n```python\n{}\n```\n"
BEGUN = "Here is the completed function:\n```python\n{}\n"
FENCE = "```"


@dataclass(frozen=True)
class HumanEvalInstruct(HumanEval):
    """164 problems; the headline is the share of completions that pass."""

    version = 1
    chat = True
    as_chat = ""
    stop: ClassVar[tuple[str, ...]] = (*HumanEval.stop, FENCE)

    def prompt(self, example: Example, answers: Sequence[str]) -> list[Message]:
        """Return the question and the start of its answer."""
        (function,) = example.turns
        return [{"role": "user", "content": ASK.format(function)},
                {"role": "assistant", "content": BEGUN.format(function)}]
