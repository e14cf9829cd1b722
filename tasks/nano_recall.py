"""A word to recall from many, written by the project for models with a bounded memory.

Two problems (with fewer words, here), and what is right:

    Text: Mia asked for apples. The fox asked for snow. Tom asked for piano.
    Summary of Tom: Tom asked for piano.

    Text: Tom asked for snow bus apples. Mia asked for piano hat bus Oslo red seven.
    In both: bus

In the first kind, 8 to 64 names have a word each. In the second, one word is in a list of 4 and in one of 8 or 32, in
either order of the same two lists. A model that keeps a state must choose what to keep of a text before it knows the
question, and to find what two lists share it must keep the first one: Arora et al. 2024 (Just Read Twice,
arXiv:2407.05483) reduce recall to this problem. `-s greedy+read_twice` lets it read the text again.

`right`, the headline, is 1 if the first word of the text's words that the answer names is the wanted one; `named` is 1
if it names any. By chance one answer in 8 to 64 is right for names, and for lists one in 4 at best. The corpus of the
embedded models has sentences like those about names, but nothing like the question about lists: their answers to it
are no better than chance.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.nano.problem import Problem
from harness.nano.recall import LARGE, PAIRS, SUBJECTS, first_named, pairs, sets
from harness.plugins.data import DataSource
from harness.plugins.task import Example, Task, knob

if TYPE_CHECKING:
    from harness.scoring.copying import FirstWord


@dataclass(frozen=True)
class NanoRecall(Task):
    """200 texts, 25 of each size and order; the headline is the share of right words. Runs only where it is named."""

    kind: str = knob("all", "names with words, two lists, or both kinds", choices=("all", "pairs", "sets"))
    pairs: int = knob(0, "names of a text [0 for 8, 16, 32 and 64]", low=0, high=len(SUBJECTS), sweep=PAIRS)
    count: int = knob(25, "texts of each size and order", low=1, high=1000)

    version = 1
    source = "decodebench, harness/nano/recall.py"
    headline = "right"
    max_new_tokens = 16
    stop = ("\n",)
    sub_tasks: ClassVar[dict[str, str] | None] = {}  # each size and order is one

    def examples(self, data: DataSource) -> list[Example]:
        """Return the texts of each size, first those with names."""
        found = dict[str, list[Problem]]()
        for size in (self.pairs,) if self.pairs else PAIRS:
            found |= {f"{size} pairs": pairs(size, self.count)} if self.kind != "sets" else {}
        for large in LARGE if self.kind != "pairs" else ():
            found |= sets(large, self.count)
        return [Example(one.id, one.turns, one.check, category) for category, some in found.items() for one in some]

    def answer(self, example: Example, text: str) -> str | None:
        """Return the first word of the text's words that an answer names, None if there is none."""
        return first_named(text, example.gold["words"])

    def metric(self) -> "FirstWord":
        """Return the metric, which looks at the first such word."""
        from harness.scoring.copying import FirstWord

        return FirstWord()
