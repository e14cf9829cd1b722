"""Sentences to translate, from a file of your own such as a test set of WMT.

Rows of `wmt/test.jsonl` below the data folder, or lines of the same number in `wmt/test.src` and `wmt/test.ref`:

    {"translation": {"en": "The cat sleeps.", "de": "Die Katze schläft."}}

`file` names another file: rows with these fields (.jsonl, .parquet), or a text file such as `dev.src`, with its
references beside it in `dev.ref`. `pair` names the languages; a code that has no name here stands in the prompt as it
is:

    Translate from English to German.
    English: The cat sleeps.
    German:

Models that were trained with a prefix get it before the sentence: `-t "translation:prefix=translate English to
German:"` (T5); those that were trained on sentences alone `-t translation:form=source` (Marian).

`chrf`, the headline, and `sentence_bleu` are sacrebleu's scores (Post 2018, arXiv 1804.08771) of a sentence, 0 to 1, in
the mean over sentences, so that strategies are compared sentence by sentence. BLEU and chrF, 0 to 100, are those of the
whole corpus, which papers report; their signatures stand below the table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.errors import UserError
from harness.plugins.data import DataSource, Row, checked, read_lines
from harness.plugins.plugin import per_instance
from harness.plugins.source_task import SourceTask
from harness.plugins.task import Example, knob
from harness.plugins.task_file import numbered_rows
from harness.scoring.corpus import TOKENIZERS, signatures, statistics

if TYPE_CHECKING:
    from harness.scoring.references import Translated

DEFAULTS = (Path("wmt/test.jsonl"), Path("wmt/test.src"))
LANGUAGES = {"cs": "Czech", "de": "German", "en": "English", "es": "Spanish", "et": "Estonian", "fi": "Finnish",
             "fr": "French", "hi": "Hindi", "is": "Icelandic", "it": "Italian", "ja": "Japanese", "ko": "Korean",
             "lt": "Lithuanian", "lv": "Latvian", "nl": "Dutch", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian",
             "ru": "Russian", "tr": "Turkish", "uk": "Ukrainian", "zh": "Chinese"}
SPLIT = {"zh": "zh", "ja": "char", "ko": "char"}  # tokenizers of BLEU, where words are not separated by spaces


@dataclass(frozen=True)
class Translation(SourceTask):
    """The headline is the mean chrF of a sentence."""

    file: str = knob("", "a file of rows or a .src file [wmt/test.jsonl or wmt/test.src]")
    pair: str = knob("en-de", "the languages from and to, which are also the fields of a row")
    tokenizer: str = knob("", "sacrebleu's tokenizer for BLEU [zh for Chinese, char for Japanese and Korean, else 13a]",
                          choices=TOKENIZERS)

    version = 1
    source = "the user's own file; scores of sacrebleu (Post 2018)"
    headline = "chrf"
    max_new_tokens = 256
    corpus: ClassVar[dict[str, str]] = per_instance({}, lambda task: signatures(task._tokenizer))

    def __post_init__(self) -> None:
        """Raise `UserError` unless `pair` has two parts."""
        super().__post_init__()
        if len(self._languages) != 2 or not all(self._languages):
            raise UserError(f"translation: knob 'pair' must be two languages, such as en-de, not {self.pair}.")

    @property
    def _languages(self) -> list[str]:
        return self.pair.split("-")

    @property
    def _tokenizer(self) -> str:
        return self.tokenizer or SPLIT.get(self._languages[1], TOKENIZERS[0])

    def examples(self, data: DataSource) -> list[Example]:
        """Return the sentences in the order of the file."""
        path = data.file(*([Path(self.file)] if self.file else DEFAULTS))
        data.origins[self.spec()] = str(path)
        given, wanted = (LANGUAGES.get(one, one) for one in self._languages)
        question = f"Translate from {given} to {wanted}.\n{given}: {{}}\n{wanted}:"
        return [Example(id=f"translation/{number}", turns=(self.asked(text, question.replace("{}", text)),),
                        gold={"references": [reference], "tokenizer": self._tokenizer})
                for number, (text, reference) in enumerate(self._pairs(path), 1)]

    def metric(self) -> "Translated":
        """Return the metric, which compares with the reference."""
        from harness.scoring.references import Translated

        return Translated()

    def sums(self, example: Example, answers: Sequence[str]) -> dict[str, list[int]]:
        """Return the statistics of BLEU and chrF."""
        return statistics(answers[-1].strip(), example.gold["references"], self._tokenizer)

    def _pairs(self, path: Path) -> list[tuple[str, str]]:
        base, is_text, packed = path.name.rpartition(".src")
        if is_text and packed in ("", ".gz"):
            lines = _together(path, path.with_name(f"{base}.ref{packed}"))
            rows = checked(lines, str(path), {"source": str, "reference": str})
            return [(row["source"].strip(), row["reference"].strip()) for row in rows]
        numbered, unit = numbered_rows(path)
        rows = checked(numbered, str(path), {"translation": dict}, check=self._wrong, unit=unit)
        return [tuple(row["translation"][one].strip() for one in self._languages) for row in rows]

    def _wrong(self, row: Row) -> str | None:
        texts = [row["translation"].get(one) for one in self._languages]
        if all(isinstance(text, str) and text.strip() for text in texts):
            return None
        return f"the field 'translation' must be an object with texts as {' and '.join(map(repr, self._languages))}"


def _together(path: Path, other: Path) -> Iterator[tuple[int, Any]]:
    """Yield the lines of the same number as rows; raises `UserError` where one file ends."""
    for number, (one, two) in enumerate(zip_longest(read_lines(path), read_lines(other)), 1):
        if one is None or two is None:
            short, long = (path, other) if one is None else (other, path)
            raise UserError(f"{long}, line {number}: {short} has no line {number}; give both the same number of lines.")
        yield number, {"source": one[1], "reference": two[1]}
