"""The manifest of a run: its identity, its environment, and the warnings of its reports."""

import datetime
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from harness import nano
from harness.backends.backend import Backend
from harness.models.loading import Model
from harness.plugins.data import DataSource
from harness.plugins.strategy import Strategy
from harness.plugins.task import Example, Task, data_hash
from harness.run.loading import model_dtype
from harness.run.selection import ChosenTask
from harness.run.sizes import sizes_of
from harness.store.config import RunConfig
from harness.store.environment import environment
from harness.store.schema import CODE_NOT_RUN, Manifest, ModelEntry, StrategyEntry, TaskEntry

NOT_IN_IDENTITY = {"output", "plugins", "data", "strategies", "preset", "tasks", "model", "draft", "heads",
                   "allow_code_execution", "baseline", "threads", "cache_gb", "texts", "scorer", "base_url",
                   "key_variable", "trace", "budget", "precision"}


def describe(config: RunConfig, command: str, strategies: Sequence[StrategyEntry],
             tasks: Sequence[ChosenTask], models: tuple[Model, Model | None], backend: Backend,
             warnings: Sequence[str]) -> Manifest:
    """Return the manifest; the first of `strategies` is the baseline, and `models` are target and draft."""
    target, draft = models
    entries = [task_entry(chosen.task, chosen.examples, chosen.data, config) for chosen in tasks]
    sandbox = _sandbox([chosen.task for chosen in tasks], entries)
    facts = dict(backend.facts)
    server = {"server": facts["server"]} if "server" in facts else {}  # the same on resume, at whatever address
    return Manifest(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), command=command,
        baseline=strategies[0].spec, config=_identity(config) | server, strategies=list(strategies), tasks=entries,
        model=model_entry(target, config), draft=model_entry(draft, config) if draft else None,
        environment=environment(config.device, torch.get_num_threads()) | _products(models) | _layers(models) | sandbox
        | ({"backend": facts} if facts else {}),
        warnings=[*dict.fromkeys(warning for chosen in tasks for warning in chosen.data.warnings), *warnings,
                  *_sandbox_warnings(sandbox), *backend.warnings])


def strategy_entry(strategy: Strategy, unsupported: str | None, heads: Mapping[str, Any] | None = None
                   ) -> StrategyEntry:
    """Return the manifest's entry of a strategy, with the hashes of the files that its knobs name and of its head."""
    head = (heads or {}).get(strategy.head_kind)
    return StrategyEntry(spec=strategy.spec(), name=strategy.name, family=strategy.family,
                         guarantee=strategy.guarantee, paper=strategy.paper, knobs=strategy.values(),
                         unsupported=unsupported, needs=sorted(strategy.needs),
                         files={knob: content_hash(path) for knob, path in strategy.files().items()}
                         | ({"head": head.fingerprint} if head else {}), head=head and head.entry)


def content_hash(path: Path) -> str:
    """Return the hash of a file, or of all files in a folder and their names; the location does not count."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            name = "" if file == path else file.relative_to(path).as_posix()
            with file.open("rb") as opened:
                digest.update(f"{name}\0{hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def task_entry(task: Task, examples: Sequence[Example], data: DataSource, config: RunConfig) -> TaskEntry:
    """Return the manifest's entry of a task; code is run for embedded models, or if that is allowed."""
    unscored = task.unscored
    if task.executes_code and config.model not in nano.NAMES and not config.allow_code_execution:
        unscored = CODE_NOT_RUN
    return TaskEntry(spec=task.spec(), version=task.version, headline=task.headline, unscored=unscored,
                     data="; ".join(data.origins.values()) or "embedded", data_hash=data_hash(examples),
                     examples=len(examples), max_new_tokens=config.max_new_tokens or task.max_new_tokens,
                     sub_tasks=task.sub_tasks, corpus=task.corpus)


def model_entry(model: Model, config: RunConfig) -> ModelEntry:
    """Return the manifest's entry of a model."""
    dtype = f"{model.engine.dtype}".removeprefix("torch.") if model.has_weights else model_dtype(config)
    return ModelEntry(name=model.name, architecture=type(model.engine.model).__name__, parameters=model.parameters,
                      dtype=dtype, fingerprint=model.fingerprint, tokenizer=model.text_identity,
                      sizes=sizes_of(model.engine.model))


def prompt_warnings(target: Model, tasks: Sequence[ChosenTask], strategies: Sequence[Strategy]) -> list[str]:
    """Return warnings about chats without a template, raw text despite one, and temperatures that tasks set."""
    warnings, template = list[str](), getattr(target.tokenizer, "chat_template", None)
    if template:
        warnings += [warning for chosen in tasks if (warning := _raw_text(chosen, target.name))]
    elif any(chosen.task.chat for chosen in tasks):
        warnings.append(f"{target.name} has no chat template: chats are written as 'User: …' and 'Assistant: …'.")
    if "strftime_now" in str(template) and any(chosen.task.chat for chosen in tasks):
        warnings.append(f"The chat template of {target.name} may write today's date, so that prompts differ from day "
                        "to day; if it reads a variable in its place, give that with --template-arg, such as "
                        "date_string='1 Jan 2026'.")
    for chosen in tasks:
        temperatures = {one.temperature for one in chosen.examples if one.temperature is not None}
        if temperatures and (obey := [s.spec() for s in strategies if any(s.at(t) is not s for t in temperatures)]):
            warnings.append(f"{chosen.task.spec()} sets temperatures, which {', '.join(obey)} takes in place "
                            "of its own; the other strategies decode as on every task.")
    return warnings


def _raw_text(chosen: ChosenTask, model: str) -> str | None:
    """Return a warning about raw text for a model with a chat template, None if there is none or nothing to do."""
    if chosen.task.as_chat:
        return (f"{chosen.task.name} gives {model} raw code, which it continues without its chat template; "
                f"-t {chosen.task.as_chat} asks in the template.")
    if chosen.task.name != "task_file":
        return None
    raw = sum(isinstance(chosen.task.prompt(example, []), str) for example in chosen.examples)
    if not raw:
        return None
    return (f"{chosen.task.values()['file']}: {raw} of {len(chosen.examples)} rows are a 'prompt', raw text that "
            f"{model} continues without its chat template; call the field 'question' to ask in the template.")


def _products(models: Sequence[Model | None]) -> dict[str, Any]:
    """Return what multiplies with the weights of each model, where that was measured."""
    measured = {model.name: dict(model.products) for model in models if model and model.products}
    return {"products": measured} if measured else {}


def _layers(models: Sequence[Model | None]) -> dict[str, Any]:
    """Return the number of layers on each device, for models on several."""
    spread = {model.name: dict(Counter(str(layer.keys.device) for layer in model.engine.cache.layers))
              for model in models if model and len(model.engine.devices) > 1}
    return {"layers": spread} if spread else {}


def _sandbox(tasks: Sequence[Task], entries: Sequence[TaskEntry]) -> dict[str, Any]:
    """Return the isolation of the programs of a run; empty if it runs none."""
    if not any(task.executes_code and not entry.unscored for task, entry in zip(tasks, entries, strict=True)):
        return {}
    from harness.sandbox import isolation

    return {"sandbox": isolation()}


def _sandbox_warnings(sandbox: dict[str, Any]) -> list[str]:
    if not sandbox:
        return []
    from harness.sandbox import active_protections

    weak = not {"seccomp", "landlock"} <= set(active_protections())
    return [f"Programs ran with this between them and the machine: {sandbox['sandbox']}."] if weak else []


def _identity(config: RunConfig) -> dict[str, Any]:
    return {key: value for key, value in vars(config).items() if key not in NOT_IN_IDENTITY and value not in ((), "")}
