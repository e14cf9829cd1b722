"""Turns a configuration into a plan: everything is loaded and checked before anything is written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from harness.backends.backend import Backend, connect
from harness.errors import UserError
from harness.models.loading import Model
from harness.models.source import split_dtype
from harness.plugins.registry import STRATEGIES, add_plugin
from harness.plugins.strategy import Strategy
from harness.plugins.task import Example, data_hash
from harness.run.cells import Cell, Tasks, cells
from harness.run.loading import (
    check_models,
    draft_name,
    find_device,
    limit_caches,
    load_draft,
    load_heads,
    load_target,
    model_dtype,
)
from harness.run.manifest import describe, prompt_warnings, strategy_entry
from harness.run.presets import preset
from harness.run.room import check_room, room_warnings
from harness.run.selection import (
    check_given,
    check_images,
    choose_strategies,
    choose_tasks,
    first_examples,
    unique,
    unsupported,
    unsupported_setting,
)
from harness.store.config import RunConfig
from harness.store.schema import Manifest

COPIED = 2_000_000_000  # parameters of target and draft model together, above which `in_float32` loads no copy


@dataclass(frozen=True)
class Plan:
    """A run that can start: loaded models, examples, the backend that decodes, and the manifest that describes it."""

    config: RunConfig
    manifest: Manifest
    strategies: tuple[Strategy, ...]
    tasks: Tasks
    target: Model
    draft: Model | None
    backend: Backend

    def close(self) -> None:
        """Release the backend."""
        self.backend.close()

    def cells(self) -> Iterator[Cell]:
        """Return all cells in the order of the run."""
        return cells(self.config, self.tasks, self.strategies, self.backend.side_by_side)


def make(config: RunConfig, command: str) -> Plan:
    """Check `config` and load what it names; raises `UserError` before anything is written."""
    for path in config.plugins:
        add_plugin(path)
    name, dtype = split_dtype(config.model)
    config = replace(config, device=find_device(config.device), model=name, dtype=dtype or config.dtype)
    config = replace(config, dtype=model_dtype(config))
    if config.preset:
        config = replace(config, preset=None, strategies=tuple(preset(config.preset, bool(draft_name(config)))))
    strategies = choose_strategies(config)
    found = check_models(config)
    chosen = choose_tasks(config)
    check_given(config, strategies, chosen)
    check_room(config, found, strategies, [one.task for one in chosen])
    torch.set_num_threads(1)  # until the size of the model is known
    target = load_target(config)
    check_images(target, chosen)
    chosen = [first_examples(task, target, config.limit) for task in chosen]
    draft = load_draft(config, target, strategies)
    load_heads(config, target, strategies)
    engines = [model.engine for model in (target, draft) if model and model.has_weights]
    limit_caches(config, engines)
    backend = connect(config, target, draft)
    entries = [strategy_entry(strategy, unsupported(strategy, config, draft, backend), target.engine.heads)
               for strategy in strategies]
    manifest = describe(config, command, entries, chosen, (target, draft), backend,
                        [*prompt_warnings(target, chosen, strategies),
                         *room_warnings(config, engines, chosen)])
    runnable = tuple(strategy for strategy, entry in zip(strategies, entries, strict=True) if not entry.unsupported)
    if not runnable:
        backend.close()
        raise UserError(f"No strategy can run with this model: {entries[0].spec} {entries[0].unsupported}.")
    tasks = tuple((one.task, one.examples) for one in chosen)
    return Plan(config, manifest, runnable, tasks, target, draft, backend)


def in_float32(plan: Plan) -> Plan | None:
    """Return the plan with float32 models: the plan itself if it has them, None if they exceed `COPIED` parameters."""
    if all(model.engine.dtype == torch.float32 for model in (plan.target, plan.draft) if model):
        return plan
    if sum(model.parameters for model in (plan.target, plan.draft) if model) > COPIED:
        return None
    draft = split_dtype(plan.config.draft)[0] if plan.config.draft else None
    return make(replace(plan.config, dtype="float32", draft=draft), "")


def part(plan: Plan, strategies: Sequence[Strategy], examples: Sequence[Sequence[Example]], output: Path) -> Plan:
    """Return a plan with these `strategies` and `examples` of each task, whose records go to `output`.

    The baseline always comes first. Strategies that cannot run are in the manifest with the reason.
    """
    known = {entry.spec: entry for entry in plan.manifest.strategies}
    wanted = unique([STRATEGIES.build(plan.manifest.baseline), *strategies])
    heads = plan.target.engine.heads
    entries = [known.get(each.spec()) or strategy_entry(
        each, unsupported_setting(each, plan.config, plan.draft, plan.backend), heads) for each in wanted]
    tasks = [entry.model_copy(update={"data_hash": data_hash(own), "examples": len(own)})
             for entry, own in zip(plan.manifest.tasks, examples, strict=True)]
    return replace(
        plan, config=replace(plan.config, output=output),
        strategies=tuple(each for each, entry in zip(wanted, entries, strict=True) if not entry.unsupported),
        tasks=tuple((task, tuple(own)) for (task, _), own in zip(plan.tasks, examples, strict=True)),
        manifest=plan.manifest.model_copy(update={"strategies": entries, "tasks": tasks}))
