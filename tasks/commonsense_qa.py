"""Questions with five options in different orders, of which a model names one (CommonsenseQA).

A row of `commonsense_qa/dev.jsonl` below the data folder, in the published form:

    {"answerKey": "A", "id": "1afa", "question": {"question_concept": "punishing", "stem": "The sanctions seemed to be
     what?", "choices": [{"label": "A", "text": "ignore"}, {"label": "B", "text": "enforce"}, …]}}

Options stand in quotation marks without labels, because letters would tell their order:

    Question: The sanctions seemed to be what?
    Options: "ignore" "enforce" …
    Answer:

Each question is asked in six orders, each a turn with a prompt of its own: forward, reversed, and four random ones. As
in Set-Based Prompting (McIlroy-Young et al. 2024, arXiv:2406.06581), an answer is right if it has the right option and
no other, `best` and `worst` are 1 if any or all are right, and a strategy for sets gets the options as
`RequestText.parts`. The prompt is ours, so compare methods with each other and not with published figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.plugins.data import DataSource, Row
from harness.plugins.prompt_parts import PromptParts, orders, places
from harness.plugins.task import Example, Task

if TYPE_CHECKING:
    from harness.scoring.copying import OptionNamed

ORDERS, FEWEST = 6, 4


@dataclass(frozen=True)
class CommonsenseQA(Task):
    """The questions of the dev set; the headline is the share of orders with a right answer."""

    version = 1
    source = "Talmor et al. 2019, arXiv:1811.00937; the user's own file"
    headline = "exact"
    max_new_tokens = 40
    stop = ("\n",)

    def examples(self, data: DataSource) -> list[Example]:
        """Return the questions in the order of the file."""
        rows = data.rows("commonsense_qa", "dev.jsonl", None, {"id": str, "question": dict, "answerKey": str}, key="id",
                         check=_wrong)
        return [_example(row) for row in rows]

    def parts(self, example: Example, answers: Sequence[str]) -> PromptParts:
        """Return where the options of this turn are."""
        return PromptParts(members=places(example.turns[len(answers)], example.gold["members"]))

    def metric(self) -> "OptionNamed":
        """Return the metric, which looks for the options in the answers."""
        from harness.scoring.copying import OptionNamed

        return OptionNamed()


def _example(row: Row) -> Example:
    question, options = row["question"], _options(row["question"])
    members = [f'"{one}"' for one in options.values()]
    asked = [" ".join(order) for order in orders(members, ORDERS, f"commonsense_qa/{row['id']}")]
    return Example(id=f"commonsense_qa/{row['id']}", gold={"text": options[row["answerKey"]], "members": members},
                   turns=tuple(f"Question: {question['stem']}\nOptions: {one}\nAnswer:" for one in asked))


def _options(question: Row) -> dict[str, str]:
    """Return the options by label; none of those that have no text."""
    given = question.get("choices")
    return {one["label"]: one["text"] for one in (given if isinstance(given, list) else [])
            if isinstance(one, dict) and all(isinstance(one.get(name), str) and one[name].strip()
                                             for name in ("label", "text"))}


def _wrong(row: Row) -> str | None:
    options, stem = _options(row["question"]), row["question"].get("stem")
    if not isinstance(stem, str) or not stem.strip():
        return "the field 'question' must be an object with a 'stem' that is not empty"
    if len(set(options.values())) < max(FEWEST, len(options)):
        return f"the field 'question' must have 'choices', {FEWEST} or more with a label and a text, all different"
    if row["answerKey"] not in options:
        return f"the field 'answerKey' must be a label of a choice, not {row['answerKey']!r}"
    return None
