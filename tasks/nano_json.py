"""Facts of a short text as a JSON object, written by the project for its embedded models.

A text of `nano_summary`, and the expected object:

    Text: Tom found a brown hat and an old saw in the village. The museum was closed on Saturday because of the snow.

    {"Summary of Tom": " Tom found a brown hat and an old saw in the village.", "Summary of the museum": " The museum
    was closed on Saturday because of the snow."}

The object has the first sentence about each of two people, places or animals of the text. Its schema gives the two
keys, and a sentence as value. The models were never shown JSON: only a strategy that obeys the schema gives valid
answers, `json_schema:spaces=False`; with any white space they never end it. Keys and values are worded as in their
training text, so a value starts with a space.
"""

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.nano.corpus import problems
from harness.nano.problem import Problem
from harness.plugins.data import DataSource
from harness.plugins.task import Example, Task

if TYPE_CHECKING:
    from harness.scoring.json_answers import JsonAnswer

VALUE = {"type": "string", "pattern": r"^ [A-Z][A-Za-z ,]*\.$"}
PRONOUNS = ("He", "She", "It")


@dataclass(frozen=True)
class NanoJson(Task):
    """200 test texts; the headline is the share of sentences that are right; `valid` and `exact` are scored too."""

    version = 1
    source = "decodebench, harness/nano/corpus.py"
    headline = "fields"
    max_new_tokens = 160

    def examples(self, data: DataSource) -> list[Example]:
        """Return the first 200 test texts."""
        return [Example(id=one.id.replace("summary", "json"), turns=(one.turns[0].rpartition("\n")[0] + "\n",),
                        gold=_gold(one)) for one in problems("summary", "test", 200)]

    def schema(self, example: Example) -> str:
        """Return the schema of the object."""
        return json.dumps(example.gold["schema"])

    def expected(self, example: Example) -> str:
        """Return the expected object as text."""
        return json.dumps(example.gold["answer"])

    def metric(self) -> "JsonAnswer":
        """Return the metric, which checks the schema and compares with the expected object."""
        from harness.scoring.json_answers import JsonAnswer

        return JsonAnswer()


def _gold(summary: Problem) -> dict[str, Any]:
    """Return schema and object about the topic of a summary and the first other topic of its text."""
    text, _, asked = summary.turns[0].removeprefix("Text: ").removesuffix(":").partition("\nSummary of ")
    first = _first_sentences(text)
    others = [topic for topic in first if topic != asked]
    answer = {f"Summary of {topic}": f" {first[topic]}" for topic in (asked, *others[:1])}
    schema = {"type": "object", "properties": dict.fromkeys(answer, VALUE), "required": list(answer),
              "additionalProperties": False}
    return {"schema": schema, "answer": answer}


def _first_sentences(text: str) -> dict[str, str]:
    """Return the topics of a text and the first sentence about each; a sentence starts with its topic or a pronoun."""
    first: dict[str, str] = {}
    for sentence in re.split(r"(?<=\.) ", text):
        word, second = sentence.split()[:2]
        if word not in PRONOUNS:
            first.setdefault(f"the {second}" if word == "The" else word, sentence)
    return first
