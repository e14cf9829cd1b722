"""Selects a strategy's settings on dev examples, reports them on held-out ones, and measures which knobs matter."""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field

from harness.errors import UserError
from harness.measure.summary import pair_with_baseline
from harness.plugins.registry import STRATEGIES, add_plugin
from harness.plugins.strategy import Strategy
from harness.plugins.task import Example
from harness.regression.snapshot import EXACT, SAMPLE, Snapshot
from harness.run.plan import Plan, make, part
from harness.run.runner import Watcher, carry_out, folder
from harness.stats.bootstrap import Interval, t_interval
from harness.stats.paired import difference_interval
from harness.store.config import RunConfig
from harness.store.folder import Store
from harness.store.stored import Stored
from harness.sweep.grid import Grid, Settings, changes, knob_values, settings

Aim = Literal["quality", "speed", "forwards"]
SERVER = ("With a server, a sweep tries the settings that a request can have, by quality or speed; that a knob has no "
          "effect is known only if the server returns token ids, and the same ones every time.")
NAN = float("nan")


class Knob(Stored):
    """The effect of one knob on the dev examples: `tried` of its `values`, the default first.

    `range` is the difference of the best and the worst value, other knobs at their defaults. `alive` is True if any
    two settings that differ in this knob only differ in a token or a count, None if no second value could be tried.
    `same` are values without effect. `needs` are values of other knobs that give this one an effect, `looked` is how
    many were tried. `samples` and `tokens` count the default's output.
    """

    name: str
    values: list[str]
    tried: list[str]
    range: float | None
    alive: bool | None
    same: list[str] = Field(default_factory=list)
    needs: list[str] = Field(default_factory=list)
    looked: int = 0
    samples: int = 0
    tokens: int = 0


class Choice(Stored):
    """A setting selected for one task, and its value on the dev examples and on the held-out ones.

    `gain` compares it with the default on the same held-out samples: a difference of quality, or a ratio minus one.
    """

    task: str
    spec: str
    dev: float | None
    held_out: float | None
    gain: float | None
    gain_low: float | None
    gain_high: float | None


class StrategySweep(Stored):
    """The sweep of one strategy: the number of settings, and three choices of one.

    `regret` is the average loss of a random setting against the best fixed one, `per_task` the loss of one setting for
    all tasks against the best one per task; both on the dev examples, in the units of `range`.
    """

    spec: str
    aim: Aim
    settings: int
    possible: int
    left_out: dict[str, str]
    knobs: list[Knob]
    default: list[Choice]
    fixed: list[Choice]
    best: list[Choice]
    regret: float | None
    per_task: float | None


class Sweep(Stored):
    """The sweep of all strategies; `dev` and `held_out` count examples by task, `skipped` has reasons.

    `failed` names settings with failed samples, which are never selected.
    """

    model: str
    seed: int
    budget: int
    dev: dict[str, int]
    held_out: dict[str, int]
    swept: list[StrategySweep]
    skipped: dict[str, str]
    failed: list[str]


@dataclass(frozen=True)
class SweepOptions:
    """Options of a sweep: values of knobs (empty: the declared ones), settings per strategy, dev share, and aim."""

    grid: Grid
    budget: int = 32
    share: float = 0.5
    aim: Aim | None = None


def sweep(config: RunConfig, options: SweepOptions, watcher: Watcher, command: str, say: Callable[[str], None]
          ) -> tuple[Path, Sweep]:
    """Run or resume a sweep; returns its folder, with the runs `dev` and `held-out`, and the results.

    Settings are selected by `options.aim`, by default quality, or speed for strategies that do not change the output.
    Raises `UserError` before anything is written.
    """
    if config.backend == "openai":
        if options.aim == "forwards":
            raise UserError("A server does not tell its forward passes: use --by quality or --by speed.")
        say(SERVER)
    for path in config.plugins:
        add_plugin(path)
    per_strategy = [settings(spec, options.grid, options.budget, config.seed)
                    for spec in dict.fromkeys(config.strategies)]
    plan = make(replace(config, texts=False, strategies=tuple(one.default.spec() for one in per_strategy)), command)
    aims = {one.default.spec(): options.aim or _default_aim(one) for one in per_strategy}
    reasons = {entry.spec: entry.unsupported for entry in plan.manifest.strategies if entry.unsupported}
    skipped = {spec: reasons[spec] for spec in aims if spec in reasons}
    per_strategy = [one for one in per_strategy if one.default.spec() not in skipped]
    if not per_strategy:
        raise UserError(f"None of the strategies can run here: {next(iter(skipped.values()))}.")
    unscored = all(task.unscored for task in plan.manifest.tasks)
    if unscored and any(aims[one.default.spec()] == "quality" for one in per_strategy):
        raise UserError("None of the tasks has scores to select by; use --by speed or --by forwards.")
    dev, rest = zip(*(split(examples, options.share, config.seed, task.spec()) for task, examples in plan.tasks),
                    strict=True)
    tried = part(plan, [strategy for one in per_strategy for strategy in one.tried], dev, Path())
    root = config.output or folder(tried.manifest, f"sweep-{config.model}")
    for line in _announcement(per_strategy, plan, dev, rest):
        say(line)
    carry_out(replace(tried, config=replace(tried.config, output=root / "dev")), watcher, tolerant=True)
    on_dev = RunResults.of(Store.open(root / "dev"))
    chosen = {one.default.spec(): _choose(one, on_dev, aims[one.default.spec()]) for one in per_strategy}
    selected = [spec for fixed, best in chosen.values() for spec in (fixed, *best.values())]
    held_out_folder = root / (f"held-out-{options.aim}" if options.aim else "held-out")  # each aim has its own settings
    held_out = [STRATEGIES.build(spec) for spec in (*chosen, *selected)]
    carry_out(part(plan, held_out, rest, held_out_folder), watcher, tolerant=True)
    on_held_out = RunResults.of(Store.open(held_out_folder))
    first = [_strategy_sweep(one, on_dev, on_held_out, aims[one.default.spec()], *chosen[one.default.spec()])
             for one in per_strategy]
    again = partial(part, plan, examples=[examples[:1] for examples in dev], output=root / "alive")
    swept = _with_inert_knobs_retried(per_strategy, first, again, watcher, say)
    sizes = [{task.spec(): len(examples) for (task, _), examples in zip(plan.tasks, half, strict=True)}
             for half in (dev, rest)]
    return root, Sweep(model=plan.target.name, seed=config.seed, budget=options.budget, dev=sizes[0], held_out=sizes[1],
                       swept=swept, skipped=skipped, failed=_failed(on_dev, on_held_out))


def split(examples: Sequence[Example], share: float, seed: int, task: str) -> tuple[list[Example], list[Example]]:
    """Split a task's examples by the seed into dev and held-out ones, in their order; neither half is empty."""
    if len(examples) < 2:
        raise UserError(f"{task} needs at least two examples for a sweep: raise --limit.")
    count = min(max(round(share * len(examples)), 1), len(examples) - 1)
    ids = {example.id for example in random.Random(f"{seed} {task}").sample(list(examples), count)}
    return [e for e in examples if e.id in ids], [e for e in examples if e.id not in ids]


def _default_aim(one: Settings) -> Aim:
    return "quality" if one.default.guarantee == "changes-output" else "speed"


def _announcement(per_strategy: Sequence[Settings], plan: Plan, dev: Sequence[Sequence[Example]],
                  rest: Sequence[Sequence[Example]]) -> Iterator[str]:
    """Yield lines with the numbers of settings and samples of the sweep."""
    for one in per_strategy:
        drawn = len(one.tried) - 1 - one.alone
        how = "all combinations" if one.whole else f"the default, {one.alone} that change one knob" + (
            f", {drawn} drawn" if drawn else "")
        yield f"{one.default.spec()}: {len(one.tried)} of {one.possible:,} settings ({how})"
    per_example = plan.config.samples * plan.config.repeats
    total = per_example * sum(map(len, dev)) * (1 + sum(len(one.tried) for one in per_strategy))
    limit = per_example * sum(map(len, rest)) * (1 + len(per_strategy) * (2 + len(dev)))
    yield f"{total:,} dev samples, then at most {limit:,} held-out samples"


@dataclass(frozen=True)
class RunResults:
    """The results of a run of many settings: samples of each cell with their value for every aim, and all traces."""

    shot: Snapshot
    cells: dict[tuple[str, str], pd.DataFrame]
    traces: dict[str, tuple[object, ...]]

    @classmethod
    def of(cls, store: Store) -> "RunResults":
        """Load a finished run; a value is the score, or the log of tokens per second or per forward pass."""
        shot, cells = Snapshot.of(store), {}
        for key, cell in shot.cells.items():
            numbers = cell[["tokens", "seconds", "forwards"]].astype(float)
            logs = np.log(numbers.where(numbers > 0))
            cells[key] = cell.assign(value_quality=cell["quality"], value_speed=logs["tokens"] - logs["seconds"],
                                     value_forwards=logs["tokens"] - logs["forwards"])
        return cls(shot, cells, {entry.spec: _trace(shot, entry.spec) for entry in shot.about.strategies})

    def value(self, task: str, spec: str, aim: Aim) -> float:
        """Return a setting's mean value (speed relative to the baseline); NaN if a sample failed or has none."""
        cell, base = self.cells.get((task, spec)), self.cells.get((task, self.shot.about.baseline))
        if cell is None or base is None or (cell["status"] == "failed").any():
            return NAN
        return float((_paired_gains(cell, base, aim) if aim == "speed" else cell)[f"value_{aim}"].mean())

    def total(self, spec: str, aim: Aim, tasks: Sequence[str]) -> float:
        """Return the mean value over tasks; NaN if one of them has none."""
        return float(np.mean([self.value(task, spec, aim) for task in tasks])) if tasks else NAN

    def tasks(self, spec: str, aim: Aim) -> list[str]:
        """Return the tasks on which a setting has a value."""
        return [task.spec for task in self.shot.about.tasks if not math.isnan(self.value(task.spec, spec, aim))]


def _trace(shot: Snapshot, spec: str) -> tuple[object, ...]:
    """Return tokens and counts of every sample: equal for two settings with identical behaviour."""
    cells = [shot.cell(task.spec, spec).sort_values(SAMPLE) for task in shot.about.tasks]
    return tuple(tuple(cell[["status", "hash", *EXACT]].fillna(-1).itertuples(index=False, name=None))
                 for cell in cells)


def _paired_gains(cell: pd.DataFrame, base: pd.DataFrame, aim: Aim) -> pd.DataFrame:
    """Pair the samples of two cells; the column of values is the first cell's minus the second's."""
    name = f"value_{aim}"
    pairs = pair_with_baseline(cell[cell["status"] == "ok"], base[base["status"] == "ok"], [name], "_base")
    return pairs.assign(**{name: pairs[name] - pairs[f"{name}_base"]}).dropna(subset=[name])


def _choose(one: Settings, on_dev: RunResults, aim: Aim) -> tuple[str, dict[str, str]]:
    """Return the best setting over all tasks, and the best for each task; the default wins ties."""
    specs, tasks = [strategy.spec() for strategy in one.tried], on_dev.tasks(one.default.spec(), aim)
    fixed = _first_best(specs, lambda spec: on_dev.total(spec, aim, tasks))
    return fixed, {task: _first_best(specs, partial(on_dev.value, task, aim=aim)) for task in tasks}


def _first_best(specs: Sequence[str], value_of: Callable[[str], float]) -> str:
    return max(specs, key=lambda spec: -math.inf if math.isnan(value := value_of(spec)) else round(value, 9))


def _strategy_sweep(one: Settings, on_dev: RunResults, on_held_out: RunResults, aim: Aim, fixed: str,
                    best: Mapping[str, str]) -> StrategySweep:
    default, tasks = one.default.spec(), list(best)
    entries = {entry.spec: entry.unsupported for entry in on_dev.shot.about.strategies if entry.unsupported}
    ran = [strategy.spec() for strategy in one.tried if strategy.spec() not in entries]
    totals = [total for spec in ran if not math.isnan(total := on_dev.total(spec, aim, tasks))]
    top = on_dev.total(fixed, aim, tasks)
    apart = float(np.mean([on_dev.value(task, spec, aim) for task, spec in best.items()])) - top if best else NAN
    return StrategySweep(
        spec=default, aim=aim, settings=len(ran), possible=one.possible,
        left_out={strategy.spec(): entries[strategy.spec()] for strategy in one.tried if strategy.spec() in entries},
        knobs=[_knob_effect(name, one, on_dev, aim, tasks) for name in one.knobs],
        default=[_choice(task, default, default, on_dev, on_held_out, aim) for task in tasks],
        fixed=[_choice(task, fixed, default, on_dev, on_held_out, aim) for task in tasks],
        best=[_choice(task, spec, default, on_dev, on_held_out, aim) for task, spec in best.items()],
        regret=_difference(top - float(np.mean(totals)), aim) if totals else None, per_task=_difference(apart, aim))


def _knob_effect(name: str, one: Settings, on_dev: RunResults, aim: Aim, tasks: Sequence[str]) -> Knob:
    ran = {strategy.spec() for strategy in one.tried if any((t, strategy.spec()) in on_dev.cells for t in tasks)}
    line = [strategy for strategy in one.varying(name) if strategy.spec() in ran]
    defaults = [cell for (_, spec), cell in on_dev.cells.items() if spec == one.default.spec()]
    groups = [kept for group in one.groups_differing_in(name)
              if len(kept := [spec for spec in group if spec in ran]) > 1]
    trace = on_dev.traces[one.default.spec()]
    values = [total for s in line if not math.isnan(total := on_dev.total(s.spec(), aim, tasks))]
    return Knob(
        name=name, values=list(one.knobs[name]), tried=[knob_values(s)[name] for s in line],
        range=_difference(max(values) - min(values), aim) if len(values) > 1 else None,
        alive=any(len({on_dev.traces[spec] for spec in group}) > 1 for group in groups) if groups else None,
        same=[knob_values(s)[name] for s in line if s is not one.default and on_dev.traces[s.spec()] == trace],
        samples=sum(map(len, defaults)), tokens=int(sum(cell["tokens"].sum() for cell in defaults)))


def _with_inert_knobs_retried(per_strategy: Sequence[Settings], swept: Sequence[StrategySweep],
                              planned: Callable[[Sequence[Strategy]], Plan], watcher: Watcher,
                              say: Callable[[str], None]) -> list[StrategySweep]:
    """Run knobs without effect again, with other values of the other knobs, and return the updated results."""
    pairs = {(one.default.spec(), knob.name): one.pairs_in_context(knob.name)
             for one, result in zip(per_strategy, swept, strict=True) for knob in result.knobs if knob.alive is False}
    strategies = [strategy for knob_pairs in pairs.values() for pair in knob_pairs for strategy in pair]
    if not strategies:
        return list(swept)
    say("knobs without effect are run again with other values of the other knobs")
    plan = planned(strategies)
    carry_out(plan, watcher, tolerant=True)
    assert plan.config.output
    traces = RunResults.of(Store.open(plan.config.output)).traces

    def again(spec: str, knob: Knob) -> Knob:
        tried = pairs.get((spec, knob.name), [])
        default = knob_values(STRATEGIES.build(spec))
        needs = [changes(knob_values(a), default) for a, b in tried if traces[a.spec()] != traces[b.spec()]]
        return knob.model_copy(update={"needs": needs, "looked": len(tried), "alive": knob.alive or bool(needs)}) \
            if tried else knob
    return [one.model_copy(update={"knobs": [again(one.spec, knob) for knob in one.knobs]}) for one in swept]


def _choice(task: str, spec: str, default: str, on_dev: RunResults, on_held_out: RunResults, aim: Aim) -> Choice:
    pairs = _paired_gains(on_held_out.cells[task, spec], on_held_out.cells[task, default], aim)
    gain = (difference_interval if aim == "quality" else t_interval)(pairs[f"value_{aim}"], pairs["example"])
    if spec == default:
        gain = Interval(0.0, NAN, NAN)
    low, mid, high = (_difference(value, aim) for value in (gain.low, gain.mean, gain.high))
    dev, held_out = (_displayed(run.value(task, spec, aim), aim) for run in (on_dev, on_held_out))
    return Choice(task=task, spec=spec, dev=dev, held_out=held_out, gain=mid, gain_low=low, gain_high=high)


def _difference(value: float, aim: Aim) -> float | None:
    """Convert a difference of values to points of quality, or a ratio minus one."""
    return None if math.isnan(value) else value if aim == "quality" else math.expm1(value)


def _displayed(value: float, aim: Aim) -> float | None:
    """Convert a value to a score, a speed-up, or tokens per forward pass."""
    return None if math.isnan(value) else value if aim == "quality" else math.exp(value)


def _failed(*runs: RunResults) -> list[str]:
    """Return a sentence for each setting with failed samples."""
    failed = {(task, spec): int((cell["status"] == "failed").sum()) for run in runs
              for (task, spec), cell in run.cells.items() if (cell["status"] == "failed").any()}
    return [f"{spec} failed on {count} samples of {task}" for (task, spec), count in failed.items()]
