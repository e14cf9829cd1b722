"""Sentences to find in a long text, written by the project for its embedded models.

A problem (its text has a few tokens only, here), and its reference answer:

    Text: The museum was closed on Saturday because of the snow. Tom found a brown hat and an old saw in the village.
    Adam wrote a long letter to the baker about the rain.
    Summary of Tom: Tom found a brown hat and an old saw in the village.

The needle is the summary of a test problem of `nano_summary`, the hay are sentences of the others that neither name its
subject nor start with a pronoun, so that the rule of `harness.nano.summaries` asks for the needle and nothing else. As
in the tests of Kamradt and of RULER (Hsieh et al. 2024, arXiv:2404.06654), texts have several lengths and the needle
lies at several depths. With `sentences` above 1, that many new sentences about one subject lie at random places.

Results are shown for each length. nano was trained on texts of up to about 400 tokens, so greedy finds less with every
length; `length=512` is beyond what it can find without a method that extends the context. `nano-long` finds most
needles in 1,024 and in 2,048 tokens, too.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.nano.needles import Haystack, haystacks
from harness.nano.sizes import tokens
from harness.plugins.data import DataSource
from harness.plugins.task import Example, Task, knob

if TYPE_CHECKING:
    from harness.scoring.copying import NeedlesFound

LENGTHS = (64, 128, 192, 256, 320)


@dataclass(frozen=True)
class NanoNeedle(Task):
    """200 texts; the headline is the share of answers with more than half of the needles' words."""

    length: int = knob(0, "tokens of the text without the needles [0 for 64, 128, 192, 256 and 320]", low=0, high=4096,
                       sweep=LENGTHS)
    depths: int = knob(5, "places of the needle, evenly spaced from start to end", low=1, high=100)
    needles: int = knob(8, "subjects that are asked for", low=1, high=100)
    sentences: int = knob(1, "needles about one subject in each text [1: the whole summary as one needle]", low=1,
                          high=4, sweep=(1, 2, 3, 4))
    question: str = knob("last", "the question is after the text, or also before it", choices=("last", "first"))

    version = 1
    source = "decodebench, harness/nano/needles.py"
    headline = "found"
    max_new_tokens = 128
    stop = ("\n",)
    sub_tasks: ClassVar[dict[str, str] | None] = {}  # each length is one

    def examples(self, data: DataSource) -> list[Example]:
        """Return the texts of the first subject at each length and depth, then those of the next one."""
        made = haystacks(tokens, (self.length,) if self.length else LENGTHS, self.depths, self.needles, "test",
                         self.sentences, pronouns=False)
        return [self._example(number, one) for number, one in enumerate(made)]

    def _example(self, number: int, one: Haystack) -> Example:
        before = f"{one.question}\n" if self.question == "first" else ""
        return Example(id=f"needle/{number:04d}", category=str(one.length),
                       turns=(f"{before}Text: {' '.join(one.pieces)}\n{one.question}",),
                       gold={"text": " ".join(one.wanted), "needles": one.wanted, "depth": one.depth})

    def metric(self) -> "NeedlesFound":
        """Return the metric, which looks for the needles in the answer."""
        from harness.scoring.copying import NeedlesFound

        return NeedlesFound()
