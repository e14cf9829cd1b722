"""Runs a plan: every sample is decoded, measured, scored and appended to the store before the next one starts."""

import hashlib
import json
import math
import re
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from harness.backends.backend import BackendLost, Generated, Sample, TurnRequest
from harness.backends.trace import Clock
from harness.engine.random_stream import PhiloxStream
from harness.errors import UserError
from harness.models.prompts import common_prefix
from harness.models.token_ends import token_ends
from harness.plugins.spec import labels
from harness.plugins.strategy import Request
from harness.plugins.task import Example, Task
from harness.plugins.task_names import short_task_names
from harness.run import text_metrics
from harness.run.budget import Budget, with_left
from harness.run.cells import Cell
from harness.run.divergence import divergences
from harness.run.failures import Failures, error_text
from harness.run.late_scores import PROGRAMS, late_tasks, refuse_unscored, score_stored, scored
from harness.run.plan import Plan, make
from harness.run.precision import Leavers, begun_with, refuse_unscored_tasks, with_spared
from harness.run.prepared_prompt import prepare
from harness.run.presets import with_defaults
from harness.store.config import RunConfig
from harness.store.duration import seconds
from harness.store.folder import Store, set_aside
from harness.store.machine import continued
from harness.store.schema import Expected, Manifest, Record, Turn
from harness.store.shard import Shard


class Watcher(Protocol):
    """Shows the progress of a run."""

    def planned(self, total: int, done: int, folder: Path, warnings: Sequence[str]) -> None:
        """The run has `total` samples, of which `done` are already finished."""
        ...

    def started(self, label: str) -> None:
        """A cell begins."""
        ...

    def finished(self, record: Record) -> None:
        """A sample is on disk."""
        ...


@dataclass(frozen=True)
class Outcome:
    """The folder of a run, its numbers of failed, of all and of unfinished samples, and the first bug's traceback."""

    folder: Path
    failed: int
    samples: int
    traceback: str = ""
    left: int = 0


def run(config: RunConfig, watcher: Watcher, command: str, clock: Clock = time.perf_counter,
        start_over: bool = False) -> Outcome:
    """Run or resume `config`, with defaults for what it leaves open; raises `UserError` before anything is written.

    To `start_over`, an earlier run in its folder is renamed first.
    """
    began = clock()
    with closing(make(with_defaults(config), command)) as plan:
        aside = set_aside(folder_of(plan)) if start_over else None
        return carry_out(plan, watcher, clock, notes=[f"The earlier run is now in {aside}."] if aside else [],
                         began=began)


def carry_out(plan: Plan, watcher: Watcher, clock: Clock = time.perf_counter, tolerant: bool = False,
              notes: Sequence[str] = (), began: float | None = None) -> Outcome:
    """Run or resume a plan; raises `UserError` before anything is written when its folder holds another run.

    Raises `BackendLost` or `RunStopped` when no further sample can succeed; the same command resumes the run. With
    `tolerant` a strategy that keeps failing does not stop the others. The watcher is told the `notes` besides the
    plan's warnings. A budget of time counts from the moment `began`, by default now.
    """
    refuse_unscored_tasks(plan)
    planned = sum(len(cell.examples) for cell in plan.cells())
    if not planned:
        blocks = len({cell.block for cell in replace(plan, config=replace(plan.config, shard=None)).cells()})
        raise UserError(f"Shard {plan.config.shard} has no examples, because they are {blocks} blocks: give at most "
                        f"{blocks} shards.")
    for given in ("budget", "precision"):
        if getattr(plan.config, given) and not plan.backend.side_by_side:
            raise UserError(f"--{given} needs all strategies side by side, and here they run one after the other: "
                            "leave it out, or give fewer strategies.")
    manifest = plan.manifest.model_copy(update={"planned": planned})
    with Store.begin(folder_of(plan), manifest) as store:
        runner = Runner(plan, clock, tolerant)
        budget = Budget(clock, runner.began if began is None else began,
                        seconds(plan.config.budget) if plan.config.budget else math.inf)
        return _carry_out(plan, store, watcher, runner, notes, budget)


def _carry_out(plan: Plan, store: Store, watcher: Watcher, runner: "Runner", notes: Sequence[str],
               budget: Budget) -> Outcome:
    if late := late_tasks(plan, store):
        watcher.started("the scores of stored answers")
        score_stored(plan, store, late)
    leavers = Leavers(plan, store)
    done, failed = store.finished()
    if failed and not runner.failures.tolerant:
        store.set_failed_aside()
        done, failed = store.finished()
    cells, names = list(plan.cells()), labels(strategy.spec() for strategy in plan.strategies)
    tasks = short_task_names(task.spec() for task, _ in plan.tasks)
    left_over = {cell.task.spec() for cell in cells if _left(cell, done)}
    todo, added = any(_left(cell, done) and leavers.stays(cell) for cell in cells), 0
    moved = [continued(plan.manifest)] if todo and not store.timed else []
    watcher.planned(sum(len(cell.examples) for cell in cells), len(done), store.folder,
                    [*notes, *moved, *plan.manifest.warnings])
    refuse_unscored(plan, store, left_over)
    for text in moved:
        store.warn(text)
    if todo:
        store.replace_manifest(begun_with(store.manifest, plan.config.precision))
        store.write_expected(_expected(plan))
        runner.warm_up()
    for cell in cells:
        if not (left := _left(cell, done)):
            continue
        if not leavers.stays(cell):
            leavers.spare(cell, len(left))
            continue
        if not budget.allows(cell.block):
            continue
        watcher.started(f"{tasks[cell.task.spec()]} · {names[cell.strategy.spec()]}")
        for record in runner.decode(cell, left):
            store.append(record)
            leavers.add(record)
            added += 1
            failed += record.status == "failed"
            watcher.finished(record)
        runner.check()
    if todo or not store.has_divergences:
        store.write_divergences(divergences(plan, store))
    if text_metrics.need_computing(plan, store.text_metrics()) or (todo and text_metrics.tasks_to_score(plan)):
        watcher.started("the metrics of texts")
        store.write_text_metrics(text_metrics.compute(plan, store.records()))
    samples = sum(len(cell.examples) for cell in cells)
    left_out = samples - len(done) - added - leavers.samples
    manifest = with_left(store.manifest, left_out, samples, plan.config.budget)
    manifest = with_spared(manifest, leavers.spared, left_out, samples, plan.config.precision)
    if manifest != store.manifest:
        store.replace_manifest(manifest)
    return Outcome(store.folder, failed, samples, runner.failures.first, left_out)


class Runner:
    """Decodes cells with the plan's backend and scores their answers."""

    def __init__(self, plan: Plan, clock: Clock, tolerant: bool = False) -> None:
        self.plan, self.clock, self.began = plan, clock, clock()
        self.unscored = {entry.spec: entry.unscored for entry in plan.manifest.tasks}
        self.prepared: Task | None = None
        self.rooms = dict[str, tuple[list[int], int]]()
        self.lost: BackendLost | None = None
        self.failures = Failures(tolerant)

    def warm_up(self) -> None:
        """Decode a few tokens with every strategy, so that slow first calls are not timed."""
        self.plan.backend.warm_up(self.plan.strategies, self.plan.config.batch_size, self.clock)

    def check(self) -> None:
        """Raise `BackendLost` or `RunStopped` when no further sample can succeed."""
        if self.lost:
            raise self.lost
        self.failures.check()

    @torch.inference_mode()
    def decode(self, cell: Cell, examples: Sequence[Example]) -> list[Record]:
        """Decode the examples of a cell together and score them; a sample that fails becomes a failed record.

        Samples that a lost backend did not answer have no record.
        """
        if self.prepared is not cell.task:
            self._prepare(cell.task)
        config = self.plan.config
        samples = [Sample(cell.at(example), partial(self._turns, cell, example)) for example in examples]
        done = self.plan.backend.decode(samples, config.batch_size, self.clock)
        own = [_seconds(result) for result in done.results]
        shares = own if config.batch_size == 1 or len(examples) == 1 else in_proportion(done.seconds, own)
        self.lost = next((result for result in done.results if isinstance(result, BackendLost)), None)

        def record(example: Example, result: list[Turn] | Exception, sent: float, seconds: float
                   ) -> tuple[Record, Exception | None]:
            started = done.start - self.began + sent
            return self._record(cell, example, result, {"started": started, "seconds": seconds, **done.measured})

        answered = [sample for sample in zip(examples, done.results, done.sent, shares, strict=True)
                    if not isinstance(sample[1], BackendLost)]
        with ThreadPoolExecutor(PROGRAMS if cell.task.executes_code else 1) as pool:
            records = list(pool.map(lambda sample: record(*sample), answered))
        for recorded, error in records:
            self.failures.note(recorded, error)
        return [recorded for recorded, _ in records]

    def _prepare(self, task: Task) -> None:
        """Make the backend prepare for the prompts of a task, whose turn may come again."""
        self.prepared, spec = task, task.spec()
        if spec not in self.rooms:
            self.rooms[spec] = self._room(task)
        self.plan.backend.prepare(*self.rooms[spec], self.plan.config.concurrency)

    def _room(self, task: Task) -> tuple[list[int], int]:
        """Return the common prefix of a task's prompts if they share one, and the tokens of the longest sequence."""
        prompts, config = list[list[int]](), self.plan.config
        longest = self.plan.backend.max_len(self.plan.strategies[0])
        for example in next(examples for known, examples in self.plan.tasks if known is task):
            with suppress(Exception):  # an error is raised again and recorded when the sample is decoded
                prompts.append(list(prepare(config, self.plan.target, longest, task, example, []).prompt))
        prefix = common_prefix(prompts) if len(prompts) > 1 and config.share_prefix else []
        return prefix, max(map(len, prompts), default=0) + (config.max_new_tokens or task.max_new_tokens)

    def _turns(self, cell: Cell, example: Example) -> Generator[TurnRequest, Generated, list[Turn]]:
        """Run the conversation of one sample: yield a request for each turn, built from the answers before it."""
        config, target, turns = self.plan.config, self.plan.target, list[Turn]()
        longest = self.plan.backend.max_len(cell.at(example))
        while len(turns) < len(example.turns):
            prepared = prepare(config, target, longest, cell.task, example, [turn.text for turn in turns])
            own, common = (PhiloxStream(config.seed, cell.task.spec(), example.id, stream, cell.repeat, len(turns))
                           for stream in (cell.sample, "all"))
            request = Request(prepared.prompt, prepared.max_tokens, own, target.eos, cell.sample,
                              prepared.rule.stopped, prepared.text, common, source=prepared.source)
            generated = yield TurnRequest(request, prepared.rule, own.number, prepared.given)
            turns.append(prepared.turn(generated))
        return turns

    def _with_texts(self, turn: Turn) -> Turn:
        """Return the turn with the places where its tokens end, and its trees as text; here nothing is timed."""
        tokenizer = self.plan.target.tokenizer
        trees = [tree.model_copy(update={"texts": [tokenizer.decode([token]) for token in tree.tokens]})
                 for tree in turn.trees]
        return turn.model_copy(update={"ends": token_ends(tokenizer, turn.tokens, turn.raw), "trees": trees})

    def _record(self, cell: Cell, example: Example, result: list[Turn] | Exception, measured: dict[str, Any]
                ) -> tuple[Record, Exception | None]:
        """Return the record of a sample with its scores, and the error if it failed."""
        fields: dict[str, Any] = {
            "task": cell.task.spec(), "example": example.id, "strategy": cell.strategy.spec(), "sample": cell.sample,
            "repeat": cell.repeat, "block": cell.block, "order": cell.order, "category": example.category,
            "temperature": example.temperature if cell.at(example) is not cell.strategy else None, **measured}
        if isinstance(result, Exception):
            return Record(**fields, status="failed", error=error_text(result)), result
        answered = Record(**fields, turns=[self._with_texts(turn) for turn in result])
        return (answered, None) if self.unscored[cell.task.spec()] else scored(answered, cell.task, example)


def _expected(plan: Plan) -> Iterator[Expected]:
    """Yield what answers are compared with, for the page."""
    for task, examples in plan.tasks:
        for example in examples:
            if text := task.expected(example):
                yield Expected(task=task.spec(), example=example.id, text=text)


def in_proportion(seconds: float, own: Sequence[float]) -> list[float]:
    """Split the seconds of a batch in proportion to its samples' `own` seconds, equally if some are unknown."""
    total = sum(own)
    return [seconds * one / total if 0 < total < float("inf") else seconds / len(own) for one in own]


def _seconds(result: list[Turn] | Exception) -> float:
    return 0.0 if isinstance(result, Exception) else sum(sum(turn.steps.seconds) for turn in result)


def _left(cell: Cell, done: set[tuple[str, str, str, int, int]]) -> list[Example]:
    task = cell.task.spec()
    key = (cell.strategy.spec(), cell.sample, cell.repeat)
    return [example for example in cell.examples if (task, example.id, *key) not in done]


def folder_of(plan: Plan) -> Path:
    """Return the folder of a plan's run; that of a shard lies in the folder of the whole run."""
    config = plan.config
    whole = config.output or folder(plan.manifest, config.model)
    return whole / Shard.parse(config.shard).folder if config.shard else whole


def folder(manifest: Manifest, model: str) -> Path:
    """Return `runs/MODEL-HASH`, the same folder for the same command, and for all shards of a run."""
    identity = manifest.identity()
    identity["config"] = {key: value for key, value in identity["config"].items() if key != "shard"}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return Path("runs") / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', model).strip('-')}-{digest[:8]}"
