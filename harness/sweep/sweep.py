"""Which setting of a strategy to use: chosen on some examples, judged on others, and which knobs matter at all."""

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
from harness.measure.summary import beside
from harness.plugins.registry import STRATEGIES, add_plugin
from harness.plugins.strategy import Strategy
from harness.plugins.task import Example
from harness.regression.snapshot import EXACT, SAMPLE, Snapshot
from harness.run.plan import Plan, make, part
from harness.run.runner import Watcher, carry_out, folder
from harness.stats.bootstrap import Interval, mean_interval
from harness.stats.paired import difference_interval
from harness.store.config import RunConfig
from harness.store.folder import Store
from harness.store.schema import Stored
from harness.sweep.grid import Grid, Settings, changes, own, settings

Aim = Literal["quality", "speed", "forwards"]
NAN = float("nan")


class Knob(Stored):
    """What one knob does on the dev examples, the others at their defaults: `tried` of its `values`, the default first.

    `range` is the best value's worth less the worst's; `alive` whether any two settings that differ in this knob alone
    differ in a token or a count; None where no second value could be tried. `same` are values that change nothing.
    `needs` are values of other knobs with which one that changes nothing at their defaults does, `looked` how many of
    them were tried; `samples` and `tokens` are what the default wrote.
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
    """A setting for one task: its worth on the dev examples it was chosen on, and what it is worth on the others.

    `gain` compares it with the default on the same held-out samples: a difference of quality, or a ratio less one.
    """

    task: str
    spec: str
    dev: float | None
    held_out: float | None
    gain: float | None
    gain_low: float | None
    gain_high: float | None


class Swept(Stored):
    """A strategy's sweep: how many settings were tried, and three ways to choose one.

    `regret` is what a setting taken at random loses against the best fixed one, `per_task` what one setting for all
    tasks loses against one for each; both on the dev examples, in the units of `range`.
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
    """All strategies of a sweep; `dev` and `held_out` count examples by task, `skipped` says why one was not swept.

    `failed` names settings with failed samples; they are not chosen.
    """

    model: str
    seed: int
    budget: int
    dev: dict[str, int]
    held_out: dict[str, int]
    swept: list[Swept]
    skipped: dict[str, str]
    failed: list[str]


@dataclass(frozen=True)
class Asked:
    """What to sweep: values of knobs (declared ones when empty), settings a strategy, the dev share, and the aim."""

    grid: Grid
    budget: int = 32
    share: float = 0.5
    aim: Aim | None = None


def sweep(config: RunConfig, asked: Asked, watcher: Watcher, command: str, say: Callable[[str], None]
          ) -> tuple[Path, Sweep]:
    """Run a sweep, or go on with it; gives its folder, with the runs `dev` and `held-out`, and what was found.

    Settings are chosen by `asked.aim`: quality, or speed for strategies that do not change the output. Raises
    `UserError` before anything is written.
    """
    for path in config.plugins:
        add_plugin(path)
    every = [settings(spec, asked.grid, asked.budget, config.seed) for spec in dict.fromkeys(config.strategies)]
    plan = make(replace(config, texts=False, strategies=tuple(one.default.spec() for one in every)), command)
    aims = {one.default.spec(): asked.aim or _usual(one) for one in every}
    reasons = {entry.spec: entry.unsupported for entry in plan.manifest.strategies if entry.unsupported}
    skipped = {spec: reasons[spec] for spec in aims if spec in reasons}
    every = [one for one in every if one.default.spec() not in skipped]
    if not every:
        raise UserError(f"None of the strategies can be swept here: {next(iter(skipped.values()))}.")
    if any(aims[one.default.spec()] == "quality" for one in every) and all(t.unscored for t in plan.manifest.tasks):
        raise UserError("None of the tasks has scores to choose by; use --by speed or --by forwards.")
    dev, rest = zip(*(split(own_, asked.share, config.seed, task.spec()) for task, own_ in plan.tasks), strict=True)
    tried = part(plan, [strategy for one in every for strategy in one.tried], dev, Path())
    root = config.output or folder(tried.manifest, f"sweep-{config.model}")
    for line in _ahead(every, plan, dev, rest):
        say(line)
    carry_out(replace(tried, config=replace(tried.config, output=root / "dev")), watcher)
    learnt = Learnt.of(Store.open(root / "dev"))
    chosen = {one.default.spec(): _choose(one, learnt, aims[one.default.spec()]) for one in every}
    wanted = [spec for fixed, best in chosen.values() for spec in (fixed, *best.values())]
    place = root / (f"held-out-{asked.aim}" if asked.aim else "held-out")  # another aim chooses other settings
    carry_out(part(plan, [STRATEGIES.build(spec) for spec in (*chosen, *wanted)], rest, place), watcher)
    judged = Learnt.of(Store.open(place))
    first = [_swept(one, learnt, judged, aims[one.default.spec()], *chosen[one.default.spec()]) for one in every]
    again = partial(part, plan, examples=[own_[:1] for own_ in dev], output=root / "alive")
    swept = _looked_at_again(every, first, again, watcher, say)
    sizes = [{task.spec(): len(own) for (task, _), own in zip(plan.tasks, side, strict=True)} for side in (dev, rest)]
    return root, Sweep(model=plan.target.name, seed=config.seed, budget=asked.budget, dev=sizes[0], held_out=sizes[1],
                       swept=swept, skipped=skipped, failed=_failed(learnt, judged))


def split(examples: Sequence[Example], share: float, seed: int, task: str) -> tuple[list[Example], list[Example]]:
    """A task's dev and held-out examples, in their order: disjoint, drawn by the seed, none of them empty."""
    if len(examples) < 2:
        raise UserError(f"{task} needs at least two examples to be swept: some to choose on, and others to judge by.")
    count = min(max(round(share * len(examples)), 1), len(examples) - 1)
    ids = {example.id for example in random.Random(f"{seed} {task}").sample(list(examples), count)}
    return [e for e in examples if e.id in ids], [e for e in examples if e.id not in ids]


def _usual(one: Settings) -> Aim:
    return "quality" if one.default.guarantee == "changes-output" else "speed"


def _ahead(every: Sequence[Settings], plan: Plan, dev: Sequence[Sequence[Example]], rest: Sequence[Sequence[Example]]
           ) -> Iterator[str]:
    """What the sweep will run, in words."""
    for one in every:
        drawn = len(one.tried) - 1 - one.alone
        how = "all combinations" if one.whole else f"the default, {one.alone} that change one knob" + (
            f", {drawn} drawn" if drawn else "")
        yield f"{one.default.spec()}: {len(one.tried)} of {one.possible:,} settings ({how})"
    each = plan.config.samples * plan.config.repeats
    total = each * sum(map(len, dev)) * (1 + sum(len(one.tried) for one in every))
    most = each * sum(map(len, rest)) * (1 + len(every) * (2 + len(dev)))
    yield f"{total:,} samples to choose on, then at most {most:,} to judge by"


@dataclass(frozen=True)
class Learnt:
    """What a run of many settings says: the samples of each cell, with their worth for every aim, and all traces."""

    shot: Snapshot
    cells: dict[tuple[str, str], pd.DataFrame]
    traces: dict[str, tuple[object, ...]]

    @classmethod
    def of(cls, store: Store) -> "Learnt":
        """Read a finished run; worth is the score, the log of tokens a second, or the log of tokens a forward."""
        shot, cells = Snapshot.of(store), {}
        for key, cell in shot.cells.items():
            numbers = cell[["tokens", "seconds", "forwards"]].astype(float)
            logs = np.log(numbers.where(numbers > 0))
            cells[key] = cell.assign(worth_quality=cell["quality"], worth_speed=logs["tokens"] - logs["seconds"],
                                     worth_forwards=logs["tokens"] - logs["forwards"])
        return cls(shot, cells, {entry.spec: _trace(shot, entry.spec) for entry in shot.about.strategies})

    def worth(self, task: str, spec: str, aim: Aim) -> float:
        """The mean worth of a setting, of speed above the baseline's; NaN when a sample failed or has none."""
        cell, base = self.cells.get((task, spec)), self.cells.get((task, self.shot.about.baseline))
        if cell is None or base is None or (cell["status"] == "failed").any():
            return NAN
        return float((_gains(cell, base, aim) if aim == "speed" else cell)[f"worth_{aim}"].mean())

    def total(self, spec: str, aim: Aim, tasks: Sequence[str]) -> float:
        """The mean worth over tasks; NaN when one of them has none."""
        return float(np.mean([self.worth(task, spec, aim) for task in tasks])) if tasks else NAN

    def tasks(self, spec: str, aim: Aim) -> list[str]:
        """The tasks on which a setting has a worth."""
        return [task.spec for task in self.shot.about.tasks if not math.isnan(self.worth(task.spec, spec, aim))]


def _trace(shot: Snapshot, spec: str) -> tuple[object, ...]:
    """Tokens and counts of every sample: equal for two settings that do exactly the same."""
    cells = [shot.cell(task.spec, spec).sort_values(SAMPLE) for task in shot.about.tasks]
    return tuple(tuple(cell[["status", "hash", *EXACT]].fillna(-1).itertuples(index=False, name=None))
                 for cell in cells)


def _gains(cell: pd.DataFrame, base: pd.DataFrame, aim: Aim) -> pd.DataFrame:
    """The samples of one cell beside another's, and in the column of worth how much more the first is worth."""
    name = f"worth_{aim}"
    pairs = beside(cell[cell["status"] == "ok"], base[base["status"] == "ok"], [name], "_base")
    return pairs.assign(**{name: pairs[name] - pairs[f"{name}_base"]}).dropna(subset=[name])


def _choose(one: Settings, learnt: Learnt, aim: Aim) -> tuple[str, dict[str, str]]:
    """The best setting for all tasks together, and the best for each; the default wins ties."""
    specs, tasks = [strategy.spec() for strategy in one.tried], learnt.tasks(one.default.spec(), aim)
    fixed = _first_best(specs, lambda spec: learnt.total(spec, aim, tasks))
    return fixed, {task: _first_best(specs, partial(learnt.worth, task, aim=aim)) for task in tasks}


def _first_best(specs: Sequence[str], worth: Callable[[str], float]) -> str:
    return max(specs, key=lambda spec: -math.inf if math.isnan(value := worth(spec)) else round(value, 9))


def _swept(one: Settings, learnt: Learnt, judged: Learnt, aim: Aim, fixed: str, best: Mapping[str, str]) -> Swept:
    default, tasks = one.default.spec(), list(best)
    entries = {entry.spec: entry.unsupported for entry in learnt.shot.about.strategies if entry.unsupported}
    ran = [strategy.spec() for strategy in one.tried if strategy.spec() not in entries]
    totals = [total for spec in ran if not math.isnan(total := learnt.total(spec, aim, tasks))]
    top = learnt.total(fixed, aim, tasks)
    apart = float(np.mean([learnt.worth(task, spec, aim) for task, spec in best.items()])) - top if best else NAN
    return Swept(
        spec=default, aim=aim, settings=len(ran), possible=one.possible,
        left_out={strategy.spec(): entries[strategy.spec()] for strategy in one.tried if strategy.spec() in entries},
        knobs=[_knob(name, one, learnt, aim, tasks) for name in one.knobs],
        default=[_choice(task, default, default, learnt, judged, aim) for task in tasks],
        fixed=[_choice(task, fixed, default, learnt, judged, aim) for task in tasks],
        best=[_choice(task, spec, default, learnt, judged, aim) for task, spec in best.items()],
        regret=_size(top - float(np.mean(totals)), aim) if totals else None, per_task=_size(apart, aim))


def _knob(name: str, one: Settings, learnt: Learnt, aim: Aim, tasks: Sequence[str]) -> Knob:
    ran = {strategy.spec() for strategy in one.tried if any((t, strategy.spec()) in learnt.cells for t in tasks)}
    line = [strategy for strategy in one.line(name) if strategy.spec() in ran]
    usually = [cell for (_, spec), cell in learnt.cells.items() if spec == one.default.spec()]
    groups = [kept for group in one.alike(name) if len(kept := [spec for spec in group if spec in ran]) > 1]
    usual = learnt.traces[one.default.spec()]
    worths = [total for s in line if not math.isnan(total := learnt.total(s.spec(), aim, tasks))]
    return Knob(
        name=name, values=list(one.knobs[name]), tried=[own(s)[name] for s in line],
        range=_size(max(worths) - min(worths), aim) if len(worths) > 1 else None,
        alive=any(len({learnt.traces[spec] for spec in group}) > 1 for group in groups) if groups else None,
        same=[own(s)[name] for s in line if s is not one.default and learnt.traces[s.spec()] == usual],
        samples=sum(map(len, usually)), tokens=int(sum(cell["tokens"].sum() for cell in usually)))


def _looked_at_again(every: Sequence[Settings], swept: Sequence[Swept], planned: Callable[[Sequence[Strategy]], Plan],
                     watcher: Watcher, say: Callable[[str], None]) -> list[Swept]:
    """The same, once the knobs that change nothing were tried with other values of the other knobs."""
    pairs = {(one.default.spec(), knob.name): one.contexts(knob.name) for one, found in zip(every, swept, strict=True)
             for knob in found.knobs if knob.alive is False}
    wanted = [strategy for each in pairs.values() for pair in each for strategy in pair]
    if not wanted:
        return list(swept)
    say("knobs that changed nothing are tried once more, with other values of the other knobs")
    plan = planned(wanted)
    carry_out(plan, watcher)
    assert plan.config.output
    traces = Learnt.of(Store.open(plan.config.output)).traces

    def again(spec: str, knob: Knob) -> Knob:
        tried = pairs.get((spec, knob.name), [])
        default = own(STRATEGIES.build(spec))
        needs = [changes(own(a), default) for a, b in tried if traces[a.spec()] != traces[b.spec()]]
        return knob.model_copy(update={"needs": needs, "looked": len(tried), "alive": knob.alive or bool(needs)}) \
            if tried else knob
    return [one.model_copy(update={"knobs": [again(one.spec, knob) for knob in one.knobs]}) for one in swept]


def _choice(task: str, spec: str, default: str, learnt: Learnt, judged: Learnt, aim: Aim) -> Choice:
    pairs = _gains(judged.cells[task, spec], judged.cells[task, default], aim)
    gain = (difference_interval if aim == "quality" else mean_interval)(pairs[f"worth_{aim}"], pairs["example"])
    if spec == default:
        gain = Interval(0.0, NAN, NAN)
    low, mid, high = (_size(value, aim) for value in (gain.low, gain.mean, gain.high))
    dev, held_out = (_shown(run.worth(task, spec, aim), aim) for run in (learnt, judged))
    return Choice(task=task, spec=spec, dev=dev, held_out=held_out, gain=mid, gain_low=low, gain_high=high)


def _size(value: float, aim: Aim) -> float | None:
    """A difference of worth: points of quality, or a ratio less one."""
    return None if math.isnan(value) else value if aim == "quality" else math.expm1(value)


def _shown(value: float, aim: Aim) -> float | None:
    """A worth: a score, a speed-up, or tokens a forward."""
    return None if math.isnan(value) else value if aim == "quality" else math.exp(value)


def _failed(*runs: Learnt) -> list[str]:
    """Which settings failed, in words."""
    failed = {(task, spec): int((cell["status"] == "failed").sum()) for run in runs
              for (task, spec), cell in run.cells.items() if (cell["status"] == "failed").any()}
    return [f"{spec} failed on {count} samples of {task}" for (task, spec), count in failed.items()]
