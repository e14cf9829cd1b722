"""Open-ended continuation of any text: the start of each document is the prompt, and its continuation the reference.

A document (a line of a text file, or the `text` of a row of a .jsonl file) and its parts:

    Robert Boulter is an English film, television and theatre actor. He had a guest role in 2000 and then played ...
    prompt:    the first 32 tokens
    reference: the next 128 tokens

The file may be in the folder of --data: `-t continuation:file=wikitext/test.txt`. With `documents=blocks`, blank lines
separate documents. `prefix` and `target` count tokens of the model under test, without special tokens; shorter
documents are skipped, and the report says how many. The prompt is passed as text: if its last token ends inside a
character, it is included whole.

Settings of papers, whose documents are WikiText-103, Wikinews and BookCorpus, one per row: contrastive search
(arXiv:2202.06417) 32 and 128; momentum decoding (arXiv:2212.02175, its published scripts) and contrastive decoding
(arXiv:2210.15097) 32 and 256. These scripts keep short documents, with shorter references.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.plugins.data import DataSource, checked, read_jsonl, read_lines
from harness.plugins.plugin import per_instance
from harness.plugins.task import Example, Task, knob


@dataclass(frozen=True)
class Continuation(Task):
    """Answers have text metrics instead of a score: diversity, likelihood, and similarity to the references (MAUVE)."""

    file: str = knob("", "a text or .jsonl file, perhaps gzipped")
    prefix: int = knob(32, "prompt tokens of each document", low=1, sweep=(32, 64))
    target: int = knob(128, "tokens to generate, and of the reference", low=1, sweep=(128, 256))
    documents: str = knob("lines", "documents of a text file are lines or blocks", choices=("lines", "blocks"))

    version = 1
    source = "the user's own text"
    headline = "score"
    endless = True
    max_new_tokens = per_instance(128, lambda task: task.target)
    open_ended = True
    unscored = "open-ended"

    def examples(self, data: DataSource) -> list[Example]:
        """Return the whole documents in the order of the file."""
        if not self.file:
            raise UserError("continuation needs a text file: -t continuation:file=FILE.txt")
        path = data.file(Path(self.file))
        texts = [row["text"] for row in checked(self._rows(path), str(path), {"text": str})]
        data.origins[self.spec()] = str(path)
        return [Example(id=f"continuation/{number}", turns=(text.strip(),)) for number, text in enumerate(texts)]

    def cut(self, example: Example, tokenizer: Any) -> Example | None:
        """Cut an example: the first `prefix` tokens are the prompt, the `target` tokens after them the reference."""
        text = example.turns[0]
        if not getattr(tokenizer, "is_fast", False):
            raise UserError("continuation needs a model with a fast tokenizer, which reports character offsets.")
        ends = [end for _, end in tokenizer(text, add_special_tokens=False, return_offsets_mapping=True,
                                            verbose=False)["offset_mapping"]]
        if len(ends) < self.prefix + self.target:
            return None
        start, end = ends[self.prefix - 1], ends[self.prefix + self.target - 1]
        reference = text[start:end]
        gold = {"reference": hashlib.sha256(reference.encode()).hexdigest()[:16]}  # identifies the data
        return Example(id=example.id, turns=(text[:start],), gold=gold, reference=reference)

    def _rows(self, path: Path) -> Iterator[tuple[int, Any]]:
        """Yield the documents as rows, each with the number of its first line."""
        if path.name.removesuffix(".gz").endswith((".jsonl", ".json")):
            yield from read_jsonl(path)
            return
        lines = ((number, line) for number, line in read_lines(path))
        if self.documents == "lines":
            yield from ((number, {"text": line}) for number, line in lines if line.strip())
            return
        for blank, block in groupby(lines, key=lambda one: not one[1].strip()):
            if not blank:
                numbers, parts = zip(*block, strict=True)
                yield numbers[0], {"text": "\n".join(parts)}
