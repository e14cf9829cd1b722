"""The perplexity of a long text that strategies do not choose but score, such as under a KV cache policy.

The model reads the text token by token, as in decoding, and each time is asked how likely the next one was:

    It was a happy autumn day in the valley, and Iris was waiting for her friend Maya. Iris and Momo the frog had ...

Without a `file` the texts are stories of nano's corpus in a row, which nano was not trained on. With `file` (any path,
or one in the folder of --data) they are the user's own: a text file is one text, and in a .jsonl file each row has a
`text`. Texts are cut to `tokens` tokens of the model under test; shorter ones are left out, and the report says how
many. The first `prefix` tokens are the prompt; policies that choose by the prompt need a long one.

The headline `likelihood` is the geometric mean of the probabilities of the tokens, which is 1 / `perplexity`, so that
more is better as in other tasks. Both leave out the first `after` tokens, since a policy changes nothing before a text
exceeds its budget. `ppl_N` is the perplexity of the block that ends N tokens after the prompt. nano was trained on
texts of up to about 400 tokens: beyond them, a window is better than all keys.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from harness.errors import UserError
from harness.nano.corpus import problems
from harness.plugins.data import DataSource, checked, read_jsonl, read_lines
from harness.plugins.task import Example, Task, knob

STORIES = 60  # of one text: more than 20,000 tokens
TEXTS = 4


@dataclass(frozen=True)
class Stream(Task):
    """Four texts of nano's stories, or those of a file."""

    file: str = knob("", "a text or .jsonl file, perhaps gzipped [nano's stories]")
    tokens: int = knob(1024, "tokens of each text", low=2, high=1 << 20, sweep=(1024, 2304, 4096))
    prefix: int = knob(1, "tokens of the prompt, which are not scored", low=1, high=1 << 20, sweep=(1, 256))
    after: int = knob(512, "tokens at the start that the headline leaves out", low=0, high=1 << 20)
    block: int = knob(256, "tokens of a block", low=1, high=1 << 20)

    version = 1
    source = "decodebench, harness/nano/stories.py, or the user's own text"
    headline = "likelihood"
    endless = True
    given = True
    max_new_tokens: ClassVar[int] = 1 << 20

    def __post_init__(self) -> None:
        """Refuse a prompt or a start as long as the text."""
        super().__post_init__()
        if max(self.prefix, self.after) >= self.tokens:
            raise UserError(f"stream: prefix and after must be below tokens={self.tokens}, not {self.prefix} and "
                            f"{self.after}.")

    def examples(self, data: DataSource) -> list[Example]:
        """Return the whole texts."""
        return [Example(id=f"stream/{number}", turns=(text,)) for number, text in enumerate(self._texts(data))]

    def cut(self, example: Example, tokenizer: Any) -> Example | None:
        """Cut a text: the first `prefix` tokens are the prompt, the others up to `tokens` the given answer."""
        text = example.turns[0]
        if not getattr(tokenizer, "is_fast", False):
            raise UserError("stream needs a model with a fast tokenizer, which reports character offsets.")
        ends = [end for _, end in tokenizer(text, add_special_tokens=False, return_offsets_mapping=True,
                                            verbose=False)["offset_mapping"]]
        if len(ends) < self.tokens:
            return None
        start, end = ends[self.prefix - 1], ends[self.tokens - 1]
        gold = {"hash": hashlib.sha256(text[:end].encode()).hexdigest()[:16]}  # identifies the data
        return Example(id=example.id, turns=(text[:start],), gold=gold, reference=text[start:end])

    def score_given(self, example: Example, surprisal: Sequence[float]) -> dict[str, float]:
        """Return the likelihood and perplexity of the tokens after the start, and the perplexity of each block."""
        skip = max(0, min(self.after - self.prefix, len(surprisal) - 1))
        mean = fmean(surprisal[skip:])
        blocks = {min(first + self.block, len(surprisal)): fmean(surprisal[first:first + self.block])
                  for first in range(0, len(surprisal), self.block)}
        return {"likelihood": exp(-mean), "perplexity": exp(mean)} | {
            f"ppl_{end}": exp(value) for end, value in blocks.items()}

    def _texts(self, data: DataSource) -> list[str]:
        if not self.file:
            stories = problems("story", "dev", TEXTS * STORIES)
            parts = [stories[first:first + STORIES] for first in range(0, len(stories), STORIES)]
            return ["\n".join(f"{one.turns[0]}{one.answers[0]}" for one in part) for part in parts]
        path = data.file(Path(self.file))
        data.origins[self.spec()] = str(path)
        if not path.name.removesuffix(".gz").endswith((".jsonl", ".json")):
            return ["\n".join(line for _, line in read_lines(path)).strip()]
        return [row["text"].strip() for row in checked(read_jsonl(path), str(path), {"text": str})]
