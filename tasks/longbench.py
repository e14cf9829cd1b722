"""Long documents of real use: questions, summaries, examples to follow, retrieval, counting and code (LongBench).

A row of `longbench/hotpotqa.jsonl` below the data folder (`context` is shortened here):

    {"input": "Which town is older?", "context": "Passage 1: ...", "answers": ["Arles"], "length": 9173, "dataset":
     "hotpotqa", "language": "en", "all_classes": null, "_id": "f2a"}

`-t longbench:part=hotpotqa` reads the published file of that name; `e=true` reads `hotpotqa_e.jsonl` of LongBench-E and
shows results for its three ranges of length. Scores and maximum lengths of answers are the published ones: F1 of words,
ROUGE-L, classes, share of right numbers, similarity of a line of code, each the best over the answers. The three sets
in Chinese that are scored by words are left out, as they need a word segmenter.

Prompts are those of the published `dataset2prompt.json` if that file is in the same folder (it maps each part to a text
with {context} and {input}), else short ones of ours, and the report says so. A prompt of more than `length` tokens
loses its middle, as published, so that instructions at both ends stay. Parts with examples to follow and code are plain
text, all others go into the chat template.
"""

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from harness.errors import UserError
from harness.plugins.data import DataSource, Row, read_text
from harness.plugins.plugin import per_instance
from harness.plugins.task import Example, Task, knob

if TYPE_CHECKING:
    from harness.scoring.long_texts import LongBenchScore

FIELD = re.compile(r"\{(context|input)\}")
PROMPTS = "dataset2prompt.json"
ASK = "{context}\n\nQuestion: {input}\nAnswer with a few words:"


class Part(NamedTuple):
    """The scoring rule of a part, the maximum tokens of its answers, our own prompt, and whether that is plain text."""

    rule: str
    tokens: int
    prompt: str = ASK
    plain: bool = False


SUMMARY = Part("rouge", 512, "{context}\n\n{input}\nSummary of the text above:")
CODE = Part("code", 64, "{context}{input}", plain=True)
SHOTS = "{context}\n{input}"
PARTS = {
    "narrativeqa": Part("f1", 128), "qasper": Part("f1", 128), "multifieldqa_en": Part("f1", 64),
    "hotpotqa": Part("f1", 32), "2wikimqa": Part("f1", 32), "musique": Part("f1", 32),
    "gov_report": SUMMARY, "qmsum": SUMMARY, "multi_news": SUMMARY,
    "trec": Part("class", 64, SHOTS, plain=True), "lsht": Part("class", 64, SHOTS, plain=True),
    "triviaqa": Part("f1", 32, SHOTS, plain=True), "samsum": Part("rouge", 128, SHOTS, plain=True),
    "passage_count": Part("number", 32, "{context}\n\nHow many different paragraphs are there? The number is:"),
    "passage_retrieval_en": Part("number", 32, "{context}\n\nThe paragraph that says: {input}\nis number"),
    "passage_retrieval_zh": Part("number", 32, "{context}\n\n{input}\n段落"),
    "lcc": CODE, "repobench-p": CODE,
}
FIRST_LINE = ("trec", "triviaqa", "samsum", "lsht")
RANGES = ((4000, "0-4k"), (8000, "4-8k"))


@dataclass(frozen=True)
class LongBench(Task):
    """The rows of one part; the headline is its published score, 0 to 1."""

    part: str = knob("hotpotqa", "one of the parts", choices=tuple(PARTS), sweep=tuple(PARTS))
    e: bool = knob(False, "the rows of LongBench-E, with results by length")
    length: int = knob(3500, "tokens of the longest prompt [as published for contexts of 4,096 tokens]", low=2)

    version = 1
    source = "Bai et al. 2024, arXiv:2308.14508; THUDM/LongBench, MIT"
    headline = "score"
    max_new_tokens = per_instance(128, lambda task: PARTS[task.part].tokens)
    chat = per_instance(True, lambda task: not PARTS[task.part].plain)
    sub_tasks: ClassVar[dict[str, str] | None] = per_instance(None, lambda task: {} if task.e else None)

    def examples(self, data: DataSource) -> list[Example]:
        """Return the rows in the order of the file."""
        name, part = f"{self.part}{'_e' * self.e}", PARTS[self.part]
        rows = data.rows("longbench", f"{name}.jsonl", None, {"context": str, "answers": list[str], "_id": str},
                         optional={"input": str, "length": int, "all_classes": list[str]}, key="_id", check=self._wrong)
        template = self._template(data)
        return [Example(id=f"{name}/{row['_id']}", category=_range(row.get("length", 0)),
                        turns=(_put(template, row),),
                        gold={"answers": row["answers"], "classes": row.get("all_classes", []), "rule": part.rule,
                              "first_line": self.part in FIRST_LINE}) for row in rows]

    def cut(self, example: Example, tokenizer: Any) -> Example | None:
        """Return the example without the middle of a prompt that is too long."""
        if not callable(tokenizer):
            return example
        prompt, half = example.turns[0], self.length // 2
        tokens = tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
        if len(tokens) <= self.length:
            return example
        ends = (tokenizer.decode(part, clean_up_tokenization_spaces=False) for part in (tokens[:half], tokens[-half:]))
        return Example(id=example.id, turns=("".join(ends),), gold=example.gold, category=example.category)

    def metric(self) -> "LongBenchScore":
        """Return the metric, which scores an answer by the rule of its part."""
        from harness.scoring.long_texts import LongBenchScore

        return LongBenchScore()

    def _template(self, data: DataSource) -> str:
        """Return the published prompt if its file is there, else ours with a warning."""
        folder = next((one / "longbench" for one in data.folders if (one / "longbench" / PROMPTS).is_file()), None)
        if folder is None:
            data.warnings.append(f"longbench: there is no {PROMPTS} beside the rows, so its prompts are not the "
                                 "published ones: do not compare its scores with published figures.")
            return PARTS[self.part].prompt
        try:
            text = json.loads(read_text(str(folder / PROMPTS)))[self.part]
        except (ValueError, LookupError, TypeError):
            text = None
        if not isinstance(text, str) or "{context}" not in text:
            raise UserError(f"{folder / PROMPTS} has no prompt of '{self.part}' with {{context}}: take LongBench's.")
        return text

    def _wrong(self, row: Row) -> str | None:
        rule = PARTS[self.part].rule
        if rule == "class" and not row.get("all_classes"):
            return "the field 'all_classes' is missing"
        if rule == "number" and not all(any(map(str.isdigit, one)) for one in row["answers"]):
            return "an answer has no number"
        return None


def _put(template: str, row: Row) -> str:
    """Put both fields into the prompt at once, as either may contain the other's name in braces."""
    return FIELD.sub(lambda field: row.get(field[1], ""), template)


def _range(length: int) -> str:
    return next((name for below, name in RANGES if length < below), "8k+")
