"""The metrics of the built-in tasks, as offline metrics of Hugging Face `evaluate`.

Importing this module imports `evaluate` (seconds), so tasks import it when they score. Metrics are cheap to create and
not thread-safe: create one for each call.
"""

import re
import statistics
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import datasets
import evaluate

from harness.nano.rules import follows
from harness.sandbox import run_program

Gold = Mapping[str, Any]


class SampleMetric(evaluate.Metric):  # type: ignore[misc]
    """A metric that is the mean of scores of single samples.

    A prediction is the list of the answers to the turns of one problem, a reference its `gold`, any JSON object.
    `reason` is why the last sample got its scores, empty if that needs no words.
    """

    reason = ""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"keep_in_memory": True, **options})

    @abstractmethod
    def sample(self, answers: list[str], gold: Gold) -> dict[str, float]:
        """Return the scores of one sample by name."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "",
            citation="",
            inputs_description="predictions: the answers of each sample; references: its gold",
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("string")), "references": datasets.Json()}
            ),
        )

    def _compute(self, predictions: list[list[str]], references: list[Gold]) -> dict[str, float]:
        scores = [self.sample(list(one), gold) for one, gold in zip(predictions, references, strict=True)]
        names = dict.fromkeys(name for one in scores for name in one)
        return {name: statistics.fmean(one[name] for one in scores if name in one) for name in names}


class GSM8KAnswer(SampleMetric):
    """Scores 1 if the final number is right: `flexible` takes the last number, `strict` the one after a fixed phrase.

    `only_flexible` and `only_strict` are 1 if only that one is right. Filters and comparison are those of
    lm-evaluation-harness 0.4 (`lm_eval/tasks/gsm8k`), quirks included. `phrase` is the strict pattern, whose first
    group is the number; its first match is used, or its `last`. With the phrase of the data's own solutions there is
    also `original`, the score of OpenAI's grade-school-math (`dataset.py`). Gold is `{"answer": "18"}`.
    """

    HASHES = r"#### (\-?[0-9\.\,]+)"
    FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
    IGNORED = tuple(map(re.compile, (",", r"\$", r"(?s).*#### ", r"\.$")))

    def __init__(self, phrase: str = HASHES, *, last: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.phrase, self.last = re.compile(phrase), last

    def sample(self, answers: list[str], gold: Gold) -> dict[str, float]:
        """Return each score, 0 or 1."""
        answer, expected = answers[-1], self.normal(gold["answer"])
        matches = [match.group(1) for match in self.phrase.finditer(answer)]
        flexible = self.last_number(answer) == expected
        strict = bool(matches) and self.normal(matches[-1 if self.last else 0]) == expected
        scores = {"flexible": flexible, "strict": strict, "only_flexible": flexible and not strict,
                  "only_strict": strict and not flexible}
        if self.phrase.pattern == self.HASHES:
            scores["original"] = bool(matches) and matches[0].replace(",", "") == gold["answer"].replace(",", "")
        return {name: float(value) for name, value in scores.items()}

    @classmethod
    def last_number(cls, text: str) -> str | None:
        """Return the last number of a text in normal form, None if there is none."""
        numbers = [match.group() for match in cls.FLEXIBLE.finditer(text)]
        return cls.normal(numbers[-1]) if numbers else None

    @classmethod
    def normal(cls, text: str) -> str:
        """Return a number in normal form: without commas, dollar signs and a final full stop, in lower case."""
        for pattern in cls.IGNORED:
            text = pattern.sub("", text)
        return text.lower()


class CodePasses(SampleMetric):
    """Scores 1 for `pass` if a completed function passes its tests, and for `timeout` if it runs out of time.

    The program is the prompt and the completion, as in OpenAI's human-eval; its tests are `test` and, where there is an
    `entry_point`, a call of `check`. Gold has `prompt`, `test`, and `entry_point`, or else the names that
    the program defines (`own`) and the `setup` of the tests. The program runs in `harness.sandbox`; the tests use its
    completed function, and all other definitions as in the prompt.
    """

    SECONDS = 3.0

    def sample(self, answers: list[str], gold: Gold) -> dict[str, float]:
        """Return `pass` and `timeout` of one program."""
        entry = gold.get("entry_point")
        own, call = ([entry], f"\ncheck({entry})") if entry else (gold["own"], "")
        result = run_program(f"{gold['prompt']}{answers[-1]}\n", gold["test"] + call, own=own,
                             setup=gold.get("setup", gold["prompt"]), timeout=self.SECONDS)
        self.reason = result.message
        return {"pass": float(result.status == "passed"), "timeout": float(result.status == "timeout")}


class FollowsRules(SampleMetric):
    """The share of turns whose answer follows its rule: `follows`, and `follows_turn_1`, ... for each turn.

    Gold is `{"turns": [rule, ...]}` with the rules of `harness.nano.rules`. An empty answer follows no rule.
    """

    def sample(self, answers: list[str], gold: Gold) -> dict[str, float]:
        """Return 0 or 1 for each turn, and their mean."""
        turns = [
            float(bool(answer.strip()) and follows(answer, rule, previous=previous))
            for answer, rule, previous in zip(answers, gold["turns"], ["", *answers[:-1]], strict=True)
        ]
        return {"follows": statistics.fmean(turns)} | {f"follows_turn_{n}": x for n, x in enumerate(turns, start=1)}
