"""The contract of a task: examples, their prompts, and the score of an answer."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from harness.plugins.plugin import Plugin, knob
from harness.plugins.prompt_parts import PLAIN, PromptParts

if TYPE_CHECKING:
    import evaluate

    from harness.plugins.data import DataSource

__all__ = ["Example", "Message", "Task", "data_hash", "knob"]

Message = dict[str, str]
IMAGE = "<image>"  # where a prompt has an image, whatever the model calls it
# What `gold` may call the text that answers are compared with.
COMPARED = ("answer", "text", "reference", "test", "values", "answers", "references")
NO_JUDGE = "no judge"  # `unscored` of a task whose answers `decodebench judge` can rate


class ImageFile(NamedTuple):
    """A file with an image, and the hash of its contents."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Example:
    """One problem: the user's `turns` as text, and `gold`, the JSON object that the scorer needs.

    `reference` is the original continuation, for tasks whose output is compared with human text. `temperature` is set
    by the task for plain sampling, see `Strategy.at`. `images` are those of the prompt, one for each `IMAGE` in it, and
    their hashes belong to `gold`.
    """

    id: str
    turns: tuple[str, ...]
    gold: Mapping[str, Any] = field(default_factory=dict)
    category: str = ""
    reference: str = ""
    temperature: float | None = None
    images: tuple[ImageFile, ...] = ()


def data_hash(examples: Sequence[Example]) -> str:
    """Return a hash of a task's examples."""
    rows = [[e.id, e.turns, dict(e.gold), e.category] for e in examples]
    return hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Task(Plugin):
    """A set of problems with a scorer.

    `version` changes with any change of prompts or scores. `headline` names the score shown as quality; without a
    scorer, `unscored` is the reason shown in its place. Prompts of `chat` tasks use the model's chat template.
    `executes_code` tasks run the generated program. Answers to `endless` tasks are meant to reach the limit. The output
    of `open_ended` tasks is measured as text: diversity, likelihood, and similarity to the references. `sub_tasks` maps
    categories to the sub-tasks that reports show separately; a category that is not in it is its own sub-task.
    `as_chat` is the name of the task that asks the same in the chat template, if there is one. The answer to a `given`
    task is the example's `reference`: strategies do not choose it, they compute how likely it is.
    `corpus` maps the metrics of a whole corpus (`harness.scoring.corpus`) that are computed from `sums` to how they are
    computed, such as sacrebleu's signature.
    """

    version: ClassVar[int]
    source: ClassVar[str]
    headline: ClassVar[str]
    max_new_tokens: ClassVar[int]
    stop: ClassVar[tuple[str, ...]] = ()
    chat: ClassVar[bool] = False
    as_chat: ClassVar[str] = ""
    executes_code: ClassVar[bool] = False
    endless: ClassVar[bool] = False
    open_ended: ClassVar[bool] = False
    sub_tasks: ClassVar[dict[str, str] | None] = None
    unscored: ClassVar[str | None] = None
    given: ClassVar[bool] = False
    corpus: ClassVar[dict[str, str]] = {}

    @abstractmethod
    def examples(self, data: "DataSource") -> list[Example]:
        """Return all test problems in published order; raises `UserError` with file and line of an invalid row."""

    def cut(self, example: Example, tokenizer: Any) -> Example | None:
        """Return the example for a model with this tokenizer, None to leave it out; for tasks that count tokens."""
        return example

    def prompt(self, example: Example, answers: Sequence[str]) -> str | list[Message]:
        """Return the prompt of the turn after `answers`: text, or messages if `chat`."""
        if not self.chat:
            return example.turns[len(answers)]
        messages: list[Message] = []
        for user, answer in zip(example.turns, answers, strict=False):
            messages += [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
        return [*messages, {"role": "user", "content": example.turns[len(answers)]}]

    def begun(self, question: str, start: str) -> str | list[Message]:
        """Return a prompt whose answer begins with `start`: one text, or a question and a begun answer if `chat`."""
        if not self.chat:
            return question + start
        return [{"role": "user", "content": question}, {"role": "assistant", "content": start.lstrip()}]

    def exemplars(self, example: Example) -> Sequence[str]:
        """Return the worked examples with which a text prompt starts; those that do not fit are left out, first first.

        Joined, they are the start of `prompt`.
        """
        return ()

    def answer(self, example: Example, text: str) -> str | None:
        """Extract the final answer, for strategies that vote: equal strings are equal votes, None is no vote."""
        return text.strip() or None

    def wanted(self, example: Example) -> tuple[tuple[str, ...], ...]:
        """Return phrases of which the answer must contain one per inner tuple, for constrained strategies."""
        return ()

    def banned(self, example: Example) -> tuple[str, ...]:
        """Return phrases that the answer must not contain, for constrained strategies."""
        return ()

    def schema(self, example: Example) -> str:
        """Return the JSON schema of the answer, for strategies that obey one; empty if there is none."""
        return ""

    def parts(self, example: Example, answers: Sequence[str]) -> PromptParts:
        """Return what is known about the make-up of the prompt after `answers`, for strategies that use it."""
        return PLAIN

    def metric(self) -> "evaluate.Metric | None":
        """Return the metric that scores a sample, None if the task is `unscored`."""
        return None

    def expected(self, example: Example) -> str:
        """Return what answers are compared with, for readers; empty if there is no such text."""
        known = next((example.gold[name] for name in COMPARED if example.gold.get(name)), example.reference)
        return "\n".join(map(str, known)) if isinstance(known, list) else str(known)

    def score(self, example: Example, answers: Sequence[str]) -> dict[str, float]:
        """Return the scores of a sample (its answers to all turns) by name; empty if the task is `unscored`."""
        return self._measured(example, answers)[0]

    def score_and_reason(self, example: Example, answers: Sequence[str]) -> tuple[dict[str, float], str]:
        """Return the scores of a sample and their reason: the error of its program, or the answer that was read.

        A task with a `score` of its own gives no reason.
        """
        own = type(self).score is not Task.score
        return (self.score(example, answers), "") if own else self._measured(example, answers)

    def sums(self, example: Example, answers: Sequence[str]) -> dict[str, list[int]]:
        """Return the statistics of a sample whose sums over samples give each of the `corpus` metrics."""
        return {}

    def score_given(self, example: Example, surprisal: Sequence[float]) -> dict[str, float]:
        """Return the scores of a `given` text by -log p of its tokens, in nats."""
        return {}

    def _measured(self, example: Example, answers: Sequence[str]) -> tuple[dict[str, float], str]:
        metric = self.metric()
        if metric is None:
            return {}, ""
        scores = metric.compute(predictions=[list(answers)], references=[dict(example.gold)])
        reason = getattr(metric, "reason", "") or self._read_as(example, answers[-1])
        return {name: float(value) for name, value in (scores or {}).items()}, reason

    def _read_as(self, example: Example, text: str) -> str:
        """Return the answer that is read from a text, if that is not the whole text."""
        answer = self.answer(example, text)
        if answer is None:
            return "no answer found" if text.strip() else "the answer is empty"
        return f"read as: {answer}" if answer != text.strip() else ""
