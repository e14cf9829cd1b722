"""Long synthetic texts with values to find, trace and count (RULER), from the rows that its scripts generate.

A row of `ruler/vt_4096.jsonl` below the data folder (`input` is shortened here):

    {"index": 0, "input": "Memorize and track the chain(s) of variable assignment ... VAR JRQXM = 81327 ...", "outputs":
     ["JRQXM", "YTWKD"], "length": 4031, "answer_prefix": " Answer: According to the chain(s) ... they are: "}

`-t ruler:part=vt,length=4096` reads `vt_4096.jsonl`, which is what NVIDIA's `prepare.py` writes as
`vt/validation.jsonl` for this length and for the tokenizer of the model. Rows without `answer_prefix` have it in their
input. Prompts, maximum lengths of answers and scores are those of RULER: the share of the outputs that the answer
contains, in any letter case; for questions (`qa_1`, `qa_2`) whether it contains one of them. `passkey` has such texts
without any data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.plugins.data import DataSource
from harness.plugins.plugin import per_instance
from harness.plugins.task import Example, Message, Task, knob

if TYPE_CHECKING:
    from harness.scoring.long_texts import Contains

NEEDLES = ("niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3",
           "niah_multivalue", "niah_multiquery")
LIMITS = dict.fromkeys(NEEDLES, 128) | {"vt": 30, "cwe": 120, "fwe": 50, "qa_1": 32, "qa_2": 32}


@dataclass(frozen=True)
class Ruler(Task):
    """The rows of one part and length; the headline is the share of the expected outputs."""

    part: str = knob("niah_single_1", "one of the 13 parts", choices=tuple(LIMITS), sweep=tuple(LIMITS))
    length: int = knob(4096, "tokens, as in the name of the file", low=1, sweep=(4096, 8192, 16384, 32768))
    template: str = knob("plain", "a text that the model continues, or a question in its chat template",
                         choices=("plain", "chat"))

    version = 1
    source = "Hsieh et al. 2024, arXiv:2404.06654; NVIDIA/RULER, Apache-2.0"
    headline = "recall"
    max_new_tokens = per_instance(128, lambda task: LIMITS[task.part])
    chat = per_instance(False, lambda task: task.template == "chat")

    def examples(self, data: DataSource) -> list[Example]:
        """Return the rows in the order of the file."""
        rows = data.rows("ruler", f"{self.part}_{self.length}.jsonl", None, {"input": str, "outputs": list[str]},
                         optional={"answer_prefix": str})
        rule = "any" if self.part.startswith("qa") else "all"
        return [Example(id=f"ruler/{number}", turns=(row["input"],),
                        gold={"values": row["outputs"], "rule": rule, "start": row.get("answer_prefix", "")})
                for number, row in enumerate(rows)]

    def prompt(self, example: Example, answers: Sequence[str]) -> str | list[Message]:
        """Return the input and the start of the answer."""
        return self.begun(example.turns[0], example.gold["start"])

    def metric(self) -> "Contains":
        """Return the metric, which looks for the outputs in the answer."""
        from harness.scoring.long_texts import Contains

        return Contains()
