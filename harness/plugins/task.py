"""The contract of a task: examples, how they are put to the model, and how an answer is scored."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from harness.plugins.plugin import Plugin, knob

if TYPE_CHECKING:
    import evaluate

    from harness.plugins.data import DataSource

__all__ = ["Example", "Message", "Task", "data_hash", "knob"]

Message = dict[str, str]
NO_JUDGE = "no judge"  # why a task is unscored whose answers `decodebench judge` can rate once the run is over


@dataclass(frozen=True)
class Example:
    """One problem: the user's `turns` as text, and `gold`, whatever the scorer needs (JSON).

    `reference` is how the text goes on in the original, for tasks whose texts are compared with those of people.
    `temperature` is one that the task sets and only plain sampling obeys, see `Strategy.at`.
    """

    id: str
    turns: tuple[str, ...]
    gold: Mapping[str, Any] = field(default_factory=dict)
    category: str = ""
    reference: str = ""
    temperature: float | None = None


def data_hash(examples: Sequence[Example]) -> str:
    """What tells the examples of a task from others."""
    rows = [[e.id, e.turns, dict(e.gold), e.category] for e in examples]
    return hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Task(Plugin):
    """A set of problems with a scorer.

    `version` changes whenever prompts or scores would. `headline` names the score shown as quality; `unscored` is
    the reason shown in its place when there is no scorer. `chat` tasks are rendered with the model's chat template.
    `executes_code` tasks run what the model wrote. A prompt that is too long for the model is refused, unless
    `may_cut` says that it may lose its start (few-shot exemplars, as lm-eval does).
    Of `open_ended` tasks the texts themselves are looked at: how varied, how likely, how much like the references.
    `sub_tasks` has the sub-task of a category (its own name where it is not named) when they are reported one by one.
    """

    version: ClassVar[int]
    source: ClassVar[str]
    headline: ClassVar[str]
    max_new_tokens: ClassVar[int]
    stop: ClassVar[tuple[str, ...]] = ()
    chat: ClassVar[bool] = False
    executes_code: ClassVar[bool] = False
    may_cut: ClassVar[bool] = False
    open_ended: ClassVar[bool] = False
    sub_tasks: ClassVar[dict[str, str] | None] = None
    unscored: ClassVar[str | None] = None

    @abstractmethod
    def examples(self, data: "DataSource") -> list[Example]:
        """All test problems in their published order; raises `UserError` naming file and line of a bad row."""

    def cut(self, example: Example, tokenizer: Any) -> Example | None:
        """The example as a model with this tokenizer gets it, for tasks that count in tokens; None leaves it out."""
        return example

    def prompt(self, example: Example, answers: Sequence[str]) -> str | list[Message]:
        """What the model reads for the turn after `answers`: raw text, or messages when `chat`."""
        if not self.chat:
            return example.turns[len(answers)]
        messages: list[Message] = []
        for user, answer in zip(example.turns, answers, strict=False):
            messages += [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
        return [*messages, {"role": "user", "content": example.turns[len(answers)]}]

    def answer(self, example: Example, text: str) -> str | None:
        """What an answer says in the end, for strategies that vote: equal strings are one vote, None is none."""
        return text.strip() or None

    def wanted(self, example: Example) -> tuple[tuple[str, ...], ...]:
        """Words or phrases the answer must contain, for strategies that can see to it: one of each inner tuple."""
        return ()

    def banned(self, example: Example) -> tuple[str, ...]:
        """Words or phrases that the answer must not contain."""
        return ()

    def metric(self) -> "evaluate.Metric | None":
        """The metric that scores one sample, or None when nothing can (`unscored` says why)."""
        return None

    def score(self, example: Example, answers: Sequence[str]) -> dict[str, float]:
        """The scores of one sample (its answer to every turn), by metric name; empty when unscored."""
        metric = self.metric()
        if metric is None:
            return {}
        scores = metric.compute(predictions=[list(answers)], references=[dict(example.gold)])
        return {name: float(value) for name, value in (scores or {}).items()}
