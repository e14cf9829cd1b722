"""Runs a plan: every sample is decoded, measured, scored and appended to the store before the next one starts."""

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from harness.backends.native import Counting, Gone, Native
from harness.engine.batching import run_batched
from harness.engine.cache import CacheFull
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session, pin
from harness.models.prompts import common_start, encode, warm_up
from harness.plugins.strategy import Request, Strategy
from harness.plugins.task import Example, Task
from harness.run.divergence import divergences
from harness.run.memory import forget_peak, peak_bytes
from harness.run.native_answers import answers, warm
from harness.run.plan import Cell, Plan, make, opened
from harness.run.prepared_prompt import prepare
from harness.run.text_metrics import described, looked_at, missing
from harness.run.trace import Clock, trace
from harness.store.config import RunConfig
from harness.store.folder import Store
from harness.store.schema import Manifest, Record, Turn

NAN = float("nan")
PROGRAMS = 8  # that models wrote, run side by side
SHARED = 16  # tokens: a shorter common start is read again rather than copied


class Watcher(Protocol):
    """Told what a run does, to show it."""

    def planned(self, total: int, done: int, folder: Path, warnings: Sequence[str]) -> None:
        """The run has `total` samples, `done` of them from before."""
        ...

    def started(self, label: str) -> None:
        """A cell begins."""
        ...

    def finished(self, record: Record) -> None:
        """A sample is on disk."""
        ...


@dataclass(frozen=True)
class Outcome:
    """Where a run is, and how many of its samples failed."""

    folder: Path
    failed: int
    samples: int


def run(config: RunConfig, watcher: Watcher, command: str, clock: Clock = time.perf_counter) -> Outcome:
    """Run or resume `config`; raises `UserError` before anything is written when it cannot be run."""
    with closing(make(config, command)) as plan:
        return carry_out(plan, watcher, clock)


def carry_out(plan: Plan, watcher: Watcher, clock: Clock = time.perf_counter) -> Outcome:
    """Run or resume a plan; raises `UserError` before anything is written when its folder holds another run."""
    with Store.begin(plan.config.output or folder(plan.manifest, plan.config.model), plan.manifest) as store:
        return _carry_out(plan, store, watcher, clock)


def _carry_out(plan: Plan, store: Store, watcher: Watcher, clock: Clock) -> Outcome:
    done, failed = store.finished()
    cells = list(plan.cells())
    watcher.planned(sum(len(cell.examples) for cell in cells), len(done), store.folder, plan.manifest.warnings)
    runner, todo = Runner(plan, clock), any(_left(cell, done) for cell in cells)
    if todo:
        runner.warm_up()
    for cell in cells:
        if not (left := _left(cell, done)):
            continue
        watcher.started(f"{cell.task.name} · {cell.strategy.spec()}")
        for record in runner.decode(cell, left):
            store.append(record)
            failed += record.status == "failed"
            watcher.finished(record)
        if runner.gone:
            raise runner.gone
    if todo or not store.has_divergences:
        store.write_divergences(divergences(plan, store))
    if missing(plan, store.text_metrics()) or (todo and looked_at(plan)):
        watcher.started("the metrics of texts")
        store.write_text_metrics(described(plan, store.records()))
    return Outcome(store.folder, failed, sum(len(cell.examples) for cell in cells))


class Runner:
    """Decodes cells with the plan's models."""

    def __init__(self, plan: Plan, clock: Clock) -> None:
        self.plan, self.clock, self.began = plan, clock, clock()
        self.unscored = {entry.spec: entry.unscored for entry in plan.manifest.tasks}
        self.engines = [plan.target.engine, *([plan.draft.engine] if plan.draft else [])]
        self.prepared: Task | None = None
        self.gone: Gone | None = None  # what a backend said when it could answer no more
        self.room = (1, 1)  # rows and slots that plain decoding takes

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Let every strategy write a few tokens after a text that is no example, so that first calls are not timed."""
        if self.plan.native:
            return warm(self.plan, self.plan.native)
        request, rule = warm_up(self.plan.target)

        def job(strategy: Strategy) -> None:
            with contextlib.suppress(Exception):  # what fails here fails again where it is recorded
                session = self.session(strategy)
                try:
                    trace(strategy, session, request, rule, self.clock)
                finally:
                    session.close()
        for strategy in self.plan.strategies:
            run_batched(self.engines, [partial(job, strategy)] * min(2, self.plan.config.concurrency))
        for engine in self.engines:
            engine.learnt.clear()

    @torch.inference_mode()
    def decode(self, cell: Cell, examples: Sequence[Example]) -> list[Record]:
        """Decode the examples of a cell together and score them; a sample that fails becomes a failed record."""
        if self.plan.native:
            return self._native(self.plan.native, cell, examples)
        if self.prepared is not cell.task:
            self._prepare(cell.task)
        forget_peak(self.plan.config.device)
        target, start = self.engines[0], self.clock()
        before = target.forwards, target.positions, target.padding
        jobs = [partial(self._answers, cell, example) for example in examples]
        done = run_batched(self.engines, jobs, self.plan.config.concurrency)
        share, peak = (self.clock() - start) / len(examples), peak_bytes(self.plan.config.device)
        now = target.forwards, target.positions, target.padding
        for engine in self.engines:
            engine.cache.trim(*self.room)
        forwards, positions, padding = (b - a for a, b in zip(before, now, strict=True))
        seconds = [_seconds(turns) if len(examples) == 1 else share for turns in done]
        with ThreadPoolExecutor(PROGRAMS if cell.task.executes_code else 1) as pool:
            records = list(pool.map(partial(self._record, cell, start - self.began), examples, done, seconds))
        reads = sum(sum(turn.steps.forwards) for record in records for turn in record.turns)
        return [record.model_copy(update={"peak_bytes": peak, "batch": reads / forwards if forwards else 0.0,
                                          "padding": padding / (positions + padding) if positions else 0.0})
                for record in records]

    def _native(self, native: Native, cell: Cell, examples: Sequence[Example]) -> list[Record]:
        """Let a backend of its own decode the examples, and score them; what it shares among texts is not known."""
        count = native.counters if isinstance(native, Counting) else dict
        before, start = count(), self.clock()
        done = answers(self.plan, native, cell, examples)
        share, alone, now = (self.clock() - start) / len(examples), self.plan.config.one_at_a_time, count()
        self.gone = next((turns for turns, _ in done if isinstance(turns, Gone)), None)
        kept = [(example, *each) for example, each in zip(examples, done, strict=True) if not isinstance(each[0], Gone)]
        with ThreadPoolExecutor(PROGRAMS if cell.task.executes_code else 1) as pool:
            records = list(pool.map(lambda each: self._record(
                cell, start - self.began + each[2], each[0], each[1], _seconds(each[1]) if alone else share), kept))
        more: dict[str, Any] = {} if alone else {"batch": NAN, "padding": NAN}
        more["counted"] = {name: (value - before.get(name, 0.0)) / len(examples) for name, value in now.items()}
        return [record.model_copy(update=more) for record in records]

    def _prepare(self, task: Task) -> None:
        """Make room for the prompts of `task` and read what they all begin with."""
        self.prepared = task
        prompts = list[list[int]]()
        for example in next(examples for each, examples in self.plan.tasks if each is task):
            with contextlib.suppress(Exception):  # what fails here fails again where it is recorded
                prompts.append(encode(self.plan.target, task.prompt(example, [])))
        start = common_start(prompts) if len(prompts) > 1 and self.plan.config.share_prefix else []
        most = max(map(len, prompts), default=0) + (self.plan.config.max_new_tokens or task.max_new_tokens)
        self.room = (self.plan.config.concurrency + 1, most)
        for engine in self.engines:
            engine.unpin()
            with contextlib.suppress(CacheFull):  # then fewer texts are decoded at a time, and nothing is shared
                engine.cache.reserve(self.room[0], min(most, engine.max_len))
                if SHARED <= len(start) < engine.max_len:
                    pin(engine, start)

    def _answers(self, cell: Cell, example: Example) -> list[Turn] | Exception:
        """Every turn of one example, or what went wrong; raises `CacheFull`, after which it may be tried again."""
        config, turns, session = self.plan.config, list[Turn](), None
        try:
            cell = cell.at(example)
            session = self.session(cell.strategy)
            while len(turns) < len(example.turns):
                own, common = (PhiloxStream(config.seed, cell.task.spec(), example.id, which, cell.repeat, len(turns))
                               for which in (cell.sample, "all"))
                turns.append(self._turn(cell, example, [t.text for t in turns], (own, common), session))
            return turns
        except CacheFull:
            raise
        except Exception as error:  # one bad sample must not end a run: it is recorded
            return error
        finally:
            if session:
                session.close()

    def _turn(self, cell: Cell, example: Example, before: Sequence[str],
              streams: tuple[PhiloxStream, PhiloxStream], session: Session) -> Turn:
        longest = min(engine.max_len for engine in self._used(cell.strategy))
        asked = prepare(self.plan.config, self.plan.target, longest, cell.task, example, before)
        shared = session.work.shared
        own, common = streams
        request = Request(asked.prompt, asked.most, own, self.plan.target.eos, cell.sample, asked.rule.stopped,
                          asked.words, common)
        done = trace(cell.strategy, session, request, asked.rule, self.clock)
        return asked.turn(done, session.work.shared - shared)

    def _record(self, cell: Cell, started: float, example: Example, turns: list[Turn] | Exception,
                seconds: float) -> Record:
        where: dict[str, Any] = {"task": cell.task.spec(), "example": example.id, "strategy": cell.strategy.spec(),
                 "sample": cell.sample, "repeat": cell.repeat, "block": cell.block, "order": cell.order,
                 "started": started, "seconds": seconds, "category": example.category,
                 "temperature": example.temperature if cell.at(example).strategy is not cell.strategy else None}
        try:
            if isinstance(turns, Exception):
                raise turns
            scores = {} if self.unscored[cell.task.spec()] else cell.task.score(example, [t.text for t in turns])
        except Exception as error:  # scoring runs foreign code: what it raises belongs to the sample
            return Record(**where, status="failed", error=f"{type(error).__name__}: {error}")
        return Record(**where, turns=turns, scores=scores)

    def _used(self, strategy: Strategy) -> list[Any]:
        return self.engines if "draft" in strategy.needs else self.engines[:1]

    def session(self, strategy: Strategy) -> Session:
        """A new text for `strategy`, with what it needs; raises `CacheFull` when there is no room."""
        return opened(strategy, self.engines)


def _seconds(turns: list[Turn] | Exception) -> float:
    return 0.0 if isinstance(turns, Exception) else sum(sum(turn.steps.seconds) for turn in turns)


def _left(cell: Cell, done: set[tuple[str, str, str, int, int]]) -> list[Example]:
    task, key = cell.task.spec(), (cell.strategy.spec(), cell.sample, cell.repeat)
    return [example for example in cell.examples if (task, example.id, *key) not in done]


def folder(manifest: Manifest, model: str) -> Path:
    """`runs/MODEL-HASH`: the same command finds the same folder again."""
    digest = hashlib.sha256(json.dumps(manifest.identity(), sort_keys=True).encode()).hexdigest()
    return Path("runs") / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', model).strip('-')}-{digest[:8]}"
