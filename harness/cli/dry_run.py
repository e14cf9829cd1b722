"""`decodebench run --dry-run`: check and load what a run needs, and say what it would do."""

import time
from contextlib import closing
from typing import TYPE_CHECKING

import typer

from harness.plugins.spec import labels
from harness.plugins.task_names import short_task_names

if TYPE_CHECKING:
    from harness.run.plan import Plan
    from harness.store.config import RunConfig


def show(settings: "RunConfig", start_over: bool) -> None:
    """Print what `run` would do with these settings; nothing is written."""
    from harness.run.plan import make
    from harness.run.presets import with_defaults
    from harness.run.runner import folder_of
    from harness.store.folder import Store

    with closing(make(with_defaults(settings), "")) as plan:
        folder = folder_of(plan)
        store = None if start_over else Store.resumed(folder, plan.manifest)
        for line in _planned(plan):
            typer.echo(line)
        done = f" ({len(store.finished()[0])} already done)" if store else ""
        typer.echo(f"folder      {folder}{done}")
        if start_over and (folder / "manifest.json").exists():
            typer.echo(f"{'':12}the run that it holds would be moved aside")
        typer.echo(f"time        {_time(plan)}")
        for warning in plan.manifest.warnings:
            typer.echo(f"Note: {warning}")
    typer.echo("Nothing was run; the same command without --dry-run runs it.")


def _planned(plan: "Plan") -> list[str]:
    """Return the model, the strategies, and the samples of each task as lines."""
    from harness.run.estimate import per_task

    config, short, counts = plan.config, labels(each.spec() for each in plan.strategies), per_task(plan)
    names = short_task_names(counts)
    answers = f" × {config.samples} answers" * (config.samples > 1) + f" × {config.repeats} repeats" * (
        config.repeats > 1)
    models = [plan.manifest.model, *([plan.manifest.draft] if plan.manifest.draft else [])]
    lines = [f"model       {', draft '.join(model.name for model in models)} ({models[0].dtype}, {config.device})"]
    lines += [f"{'' if number else 'strategies':12}{name}" for number, name in enumerate(short.values())]
    lines += [f"{'':12}not {entry.name}: {entry.unsupported}" for entry in plan.manifest.strategies
              if entry.unsupported]
    several = f"{len(plan.strategies)} {'strategies' if len(plan.strategies) > 1 else 'strategy'}"
    for number, (task, _) in enumerate(plan.tasks):
        spec = task.spec()
        examples = counts[spec] // (len(plan.strategies) * config.samples * config.repeats)
        lines.append(f"{'' if number else 'tasks':12}{names[spec]}: {several} × {examples} examples{answers} = "
                     f"{counts[spec]} samples")
    share = f", those of shard {config.shard}" if config.shard else ""
    fewer = ", fewer if --precision is reached" if config.precision else ""
    return [*lines, f"samples     {sum(counts.values())}{share}{fewer}"]


def _time(plan: "Plan") -> str:
    """Return an upper bound of the time in words."""
    from harness.run.estimate import estimate

    if plan.config.backend == "openai":
        return "unknown: the server was asked nothing"
    found = estimate(plan, time.perf_counter)
    if found.problem:
        return f"unknown: {found.problem}"
    minutes = found.seconds / 60
    amount = f"{minutes:.0f} minutes" if minutes >= 1.5 else "a minute" if minutes >= 0.5 else "half a minute"
    return (f"about {amount} if every answer reaches its limit\n"
            f"{'':12}(one sequence at a time, at the baseline's speed)")
