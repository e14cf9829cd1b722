"""What a run runs: its strategies, tasks and examples, and why a strategy cannot run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.backends.backend import Backend, refusal_or_close
from harness.errors import UserError
from harness.models.loading import Model
from harness.plugins.data import DataSource
from harness.plugins.registry import STRATEGIES, TASKS
from harness.plugins.strategy import Strategy
from harness.plugins.task import Example, Task
from harness.store.config import RunConfig


@dataclass(frozen=True)
class Chosen:
    """A task with its examples, and where their rows came from."""

    task: Task
    examples: tuple[Example, ...]
    data: DataSource


def choose_strategies(config: RunConfig) -> list[Strategy]:
    """The strategies of the run, the baseline first and always among them."""
    named = [STRATEGIES.build(spec) for spec in config.strategies or sorted(STRATEGIES.built_in())]
    return unique([STRATEGIES.build(config.baseline), *named])


def choose_tasks(config: RunConfig) -> list[Chosen]:
    """The tasks of the run with all their examples; raises `UserError` for a task without examples."""
    default = [name for name in sorted(TASKS.built_in()) if name.startswith("nano_")]
    chosen = []
    for task in unique([TASKS.build(spec) for spec in config.tasks or default]):
        data = DataSource(config.data)  # one each: it notes where the rows came from
        examples = task.examples(data)
        if not examples:
            raise UserError(f"The task '{task.name}' has no examples.")
        if len({example.id for example in examples}) != len(examples):
            raise UserError(f"The task '{task.name}' has two examples of the same id.")
        chosen.append(Chosen(task, tuple(examples), data))
    return chosen


def first_examples(chosen: Chosen, target: Model, limit: int | None) -> Chosen:
    """The first `limit` examples as the model gets them; those that are left out are counted in a warning."""
    task, kept, seen = chosen.task, list[Example](), 0
    for example in chosen.examples:
        if len(kept) == limit:
            break
        seen += 1
        if (cut := task.cut(example, target.tokenizer)) is not None:
            kept.append(cut)
    if not kept:
        raise UserError(f"No example of {task.spec()} is long enough; ask for fewer tokens of each.")
    if len(kept) < seen:
        chosen.data.warnings.append(f"{task.name}: {seen - len(kept)} of {seen} examples are too short and left out.")
    return Chosen(task, tuple(kept), chosen.data)


def unsupported(strategy: Strategy, config: RunConfig, draft: Model | None, backend: Backend) -> str | None:
    """Why a strategy cannot run, None when it can; a backend that can run nothing raises `UserError`."""
    limit = strategy.most_samples()
    if limit is not None and config.samples > limit:
        return f"gives at most {limit} samples a prompt"
    if "draft" in strategy.needs and draft is None and config.backend != "openai":
        return "needs a draft model: give one with --draft"
    return refusal_or_close(backend, strategy)


def unsupported_setting(strategy: Strategy, config: RunConfig, draft: Model | None, backend: Backend) -> str | None:
    """Why a setting of a strategy cannot run, with values that the models refuse among the reasons."""
    try:
        return unsupported(strategy, config, draft, backend)
    except UserError as error:
        return str(error)


def unique(plugins: Sequence[Any]) -> list[Any]:
    """The plugins without those of the same spec."""
    return list({plugin.spec(): plugin for plugin in plugins}.values())
