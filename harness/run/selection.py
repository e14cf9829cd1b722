"""Selects the strategies, tasks and examples of a run, and finds the strategies that cannot run."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from harness.backends.backend import Backend, refusal_or_close
from harness.engine.offers import DRAFT_MISSING, missing
from harness.errors import UserError
from harness.models.images import why_not
from harness.models.loading import Model
from harness.plugins.data import DataSource
from harness.plugins.registry import STRATEGIES, TASKS
from harness.plugins.spec import labels
from harness.plugins.strategy import Over, Strategy
from harness.plugins.task import Example, Task
from harness.store.config import RunConfig

NAMED_ONLY = ("nano_parallel", "nano_recall", "nano_record")  # embedded tasks that nano was not trained on


@dataclass(frozen=True)
class ChosenTask:
    """A task with its examples and their data source."""

    task: Task
    examples: tuple[Example, ...]
    data: DataSource


def choose_strategies(config: RunConfig) -> list[Strategy]:
    """Return the strategies of the run, with the baseline always first."""
    named = [STRATEGIES.build(spec) for spec in config.strategies or sorted(STRATEGIES.built_in())]
    return unique([STRATEGIES.build(config.baseline), *named])


def choose_tasks(config: RunConfig) -> list[ChosenTask]:
    """Return the tasks of the run with all their examples, by default the embedded ones that nano was trained on.

    Raises `UserError` for a task without examples.
    """
    default = [name for name in sorted(TASKS.built_in()) if name.startswith("nano_") and name not in NAMED_ONLY]
    chosen = []
    for task in unique([TASKS.build(spec) for spec in config.tasks or default]):
        data = DataSource(config.data)  # one per task, because it records the origin of rows
        examples = task.examples(data)
        if not examples:
            raise UserError(f"The task '{task.name}' has no examples.")
        if len({example.id for example in examples}) != len(examples):
            raise UserError(f"The task '{task.name}' has two examples of the same id.")
        chosen.append(ChosenTask(task, tuple(examples), data))
    return chosen


def check_given(config: RunConfig, strategies: Sequence[Strategy], tasks: Sequence[ChosenTask]) -> None:
    """Raise `UserError` if a task gives its texts and the backend or one of the strategies cannot score these."""
    names = [chosen.task.name for chosen in tasks if chosen.task.given]
    if names and config.backend != "transformers":
        raise UserError(f"The task '{names[0]}' scores a given text, which only --backend transformers can.")
    shown = labels(strategy.spec() for strategy in strategies)
    if names and (others := [shown[strategy.spec()] for strategy in strategies if not strategy.scores_given]):
        more = f" and {len(others) - 3} others" if len(others) > 3 else ""
        raise UserError(f"The task '{names[0]}' scores a given text, which {', '.join(others[:3])}{more} cannot; give "
                        "strategies that can with -s, such as greedy and the cache policies over it (greedy+window).")


def check_images(target: Model, tasks: Sequence[ChosenTask]) -> None:
    """Raise `UserError` if a task has images and the model does not read them, or texts are to be measured with them.
    """
    for task in (one.task for one in tasks if any(example.images for example in one.examples)):
        if target.images is None:
            raise UserError(f"The task '{task.name}' has images: {why_not(target.name, target.engine.model.config)}")
        if task.open_ended:
            raise UserError(f"The task '{task.name}' has images, which text metrics cannot take into account; "
                            "leave open_ended out.")


def first_examples(chosen: ChosenTask, target: Model, limit: int | None) -> ChosenTask:
    """Return the first `limit` examples after `task.cut`; a warning counts those that are too short.

    A limit takes the sub-tasks of a task in turn: 40 questions of Spec-Bench are of six sub-tasks, not of one.
    """
    task, kept, seen = chosen.task, list[Example](), 0
    for example in chosen.examples if limit is None else _in_turn(task, chosen.examples):
        if len(kept) == limit:
            break
        seen += 1
        if (cut := task.cut(example, target.tokenizer)) is not None:
            kept.append(cut)
    if not kept:
        raise UserError(f"No example of {task.spec()} is long enough; lower the number of tokens that it needs.")
    if len(kept) < seen:
        chosen.data.warnings.append(f"{task.name}: {seen - len(kept)} of {seen} examples are too short and left out.")
    return ChosenTask(task, tuple(kept), chosen.data)


def _in_turn(task: Task, examples: Sequence[Example]) -> list[Example]:
    """Return the first example of each sub-task, then the second of each, and so on."""
    if task.sub_tasks is None:
        return list(examples)
    places, counts = list[int](), Counter[str]()
    for example in examples:
        part = task.sub_tasks.get(example.category, example.category)
        places.append(counts[part])
        counts[part] += 1
    return [example for _, example in sorted(zip(places, examples, strict=True), key=itemgetter(0))]


def unsupported(strategy: Strategy, config: RunConfig, draft: Model | None, backend: Backend) -> str | None:
    """Return why a strategy cannot run, or None if it can; raises `UserError` if the backend can run nothing."""
    limit = strategy.max_samples()
    if limit is not None and config.samples > limit:
        return f"gives at most {limit} samples a prompt"
    if "draft" in strategy.needs and draft is None and config.backend != "openai":
        return "needs a draft model: give one with --draft"
    if "draft" in strategy.needs and draft and strategy.drafts_with not in draft.engine.offers:
        return DRAFT_MISSING[strategy.drafts_with]
    offers = backend.target.engine.offers
    if reason := missing(needs(strategy), offers):
        return reason
    if strategy.head_kind and "prompt" not in offers:
        return "drafts with a trained head, which only decoder-only models have"
    return refusal_or_close(backend, strategy)


def needs(strategy: Strategy) -> frozenset[str]:
    """Return what a strategy needs: one that fills no masks writes from left to right, and so does one over another."""
    fills = "canvas" in strategy.needs and not isinstance(strategy, Over)
    return strategy.needs if fills else strategy.needs | {"causal"}


def unsupported_setting(strategy: Strategy, config: RunConfig, draft: Model | None, backend: Backend) -> str | None:
    """Return why a setting of a strategy cannot run, also if the models refuse a value; None if it can."""
    try:
        return unsupported(strategy, config, draft, backend)
    except UserError as error:
        return str(error)


def unique(plugins: Sequence[Any]) -> list[Any]:
    """Return the plugins without duplicates of a spec."""
    return list({plugin.spec(): plugin for plugin in plugins}.values())
