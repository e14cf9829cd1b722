"""Continuous batching: sequences decode in greenlets, and their requests are merged into shared forward passes."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from greenlet import getcurrent, greenlet

from harness.engine.cache import CacheFull
from harness.engine.forward import ForwardRequest, ForwardRows
from harness.engine.grouping import grouped

if TYPE_CHECKING:
    from harness.engine.engine import Engine

T = TypeVar("T")
REFILL = 8  # new jobs start once 1/8 of the batch is free: a compromise between idle rows and more prefills


def run_batched(engines: Sequence["Engine"], jobs: Sequence[Callable[[], T]], limit: int = 0) -> list[T | CacheFull]:
    """Run `jobs` in one batch, at most `limit` at a time (0: all), and return their results in order.

    Each round merges the waiting requests of one engine into as few forwards as padding allows. An engine runs only
    when no later one in `engines` has requests waiting, requests with a hook only when none is a draft, and the
    unchanged model only when none has a hook, so drafts are complete before the target verifies all of them together.
    The order depends on the jobs alone.

    A failing forward raises in the jobs that requested it, and an error that a job raises ends the others too. When
    the KV cache is full, the youngest job gets `CacheFull`; if it does not catch it, it starts again after another
    has ended, and fewer run at a time from then on. For a job that does not fit alone, that error is its result.
    """
    if len(jobs) > 1:
        return BatchedExecutor(engines, jobs, limit or len(jobs)).run()
    try:
        return [job() for job in jobs]
    except CacheFull as error:
        return [error]


class _Waiting(NamedTuple):
    """A request that waits for its engine."""

    engine: "Engine"
    request: ForwardRequest


class _Drafted(NamedTuple):
    """What a sequence tells the others before its draft is verified."""

    value: Any


@dataclass
class _JobGroup:
    """Jobs that one task waits for: the running ones with their numbers, and the results of the finished ones."""

    parent: greenlet
    running: dict[greenlet, int] = field(default_factory=dict)
    results: dict[int, Any] = field(default_factory=dict)


class BatchedExecutor(Generic[T]):
    """Runs jobs in greenlets, called tasks, which switch to the scheduler whenever they request a forward pass."""

    merges = True

    def __init__(self, engines: Sequence["Engine"], jobs: Sequence[Callable[[], T]], limit: int) -> None:
        self.engines, self.jobs, self.limit = engines, jobs, limit
        self.queue, self.results = deque(range(len(jobs))), dict[int, T | CacheFull]()
        self.tasks = dict[greenlet, int]()  # the numbers of their jobs, in the order in which they started
        self.groups = list[_JobGroup]()
        self.waiting = dict[greenlet, _Waiting]()
        self.drafted = dict[greenlet, _Drafted]()
        self.scheduler = getcurrent()

    @property
    def in_flight(self) -> int:
        """The number of sequences that are being decoded; a task that waits for jobs of its own does not count."""
        return len(self.tasks) + sum(len(group.running) - 1 for group in self.groups)

    def forward(self, engine: "Engine", request: ForwardRequest) -> ForwardRows:
        """Called in a task: wait until the request has been run in a merged forward."""
        output: ForwardRows = self.scheduler.switch(_Waiting(engine, request))
        return output

    def gather(self, value: Any) -> tuple[list[Any], int]:
        """Called in a task: wait until no draft model has requests waiting; return what all that wait here gave."""
        values: tuple[list[Any], int] = self.scheduler.switch(_Drafted(value))
        return values

    def run_jobs(self, engines: Sequence["Engine"], jobs: Sequence[Callable[[], Any]]) -> list[Any]:
        """Called in a task: run jobs in the same batch as all others and wait for their results."""
        if len(jobs) < 2:
            return run_batched(engines, jobs)
        results: list[Any] = self.scheduler.switch(list(jobs))
        return results

    def run(self) -> list[T | CacheFull]:
        """Run all jobs as the executor of the engines and return their results in order."""
        before = [(engine, engine.executor) for engine in self.engines]
        for engine in self.engines:
            engine.executor = self
        try:
            while self.queue or self.tasks:
                self._start_jobs()
                self._run_round()
        finally:
            for task in self.tasks:
                self._end_children(task)
                task.throw()
            for engine, executor in before:
                engine.executor = executor
        return [self.results[i] for i in range(len(self.jobs))]

    def _start_jobs(self) -> None:
        """Start jobs once there is room for several, so that their prompts are prefilled together."""
        room = min(self.limit - len(self.tasks), len(self.queue))
        if room >= min(self.limit // REFILL, len(self.queue)) or not self.tasks:
            for _ in range(room):
                job = self.queue.popleft()
                task = greenlet(self.jobs[job])
                self.tasks[task] = job
                self._resume(task, task.switch)

    def _run_round(self) -> None:
        """Run the waiting requests of the last engine that has any, and resume their tasks with the outputs."""
        engine = next((engine for engine in self.engines[::-1]
                       if any(engine is wait.engine for wait in self.waiting.values())), None)
        if self.drafted and engine in (None, self.engines[0]):
            tasks, values = list(self.drafted), [each.value for each in self.drafted.values()]
            for place, task in enumerate(tasks):
                if task in self.drafted:  # one that fails ends others
                    self._resume(task, task.switch, (values, place))
            return
        if engine is None:
            return
        ready = [(task, wait.request) for task, wait in self.waiting.items() if wait.engine is engine]
        kind = max(((request.hook, request.draft) for _, request in ready if request.hook is not None or request.draft),
                   key=lambda kind: kind[1], default=(None, False))
        ready = [(task, request) for task, request in ready if (request.hook, request.draft) == kind]
        outputs = dict[greenlet, ForwardRows | Exception]()
        for group in grouped([(request.row.index, len(request.tokens)) for _, request in ready], engine.costs):
            outputs |= self._run_requests(engine, [ready[i][0] for i in group])
        for task, output in outputs.items():
            if task in self.waiting:
                self._resume(task, task.throw if isinstance(output, Exception) else task.switch, output)

    def _run_requests(self, engine: "Engine", tasks: Sequence[greenlet]) -> dict[greenlet, ForwardRows | Exception]:
        """Run the requests of `tasks` in one forward pass, and return the output or the error of each task."""
        tasks = [task for task in tasks if task in self.waiting]
        if not tasks:
            return {}
        try:
            return dict(zip(tasks, engine.run([self.waiting[task].request for task in tasks]), strict=True))
        except CacheFull as error:
            youngest = list(self.tasks)[-1]
            self._end_children(youngest)
            self._resume(youngest, youngest.throw, error)
            return self._run_requests(engine, tasks)
        except Exception as error:  # run each task alone, so that only the failing requests raise
            if len(tasks) == 1:
                return {tasks[0]: error}
            return {key: output for task in tasks for key, output in self._run_requests(engine, [task]).items()}

    def _resume(self, task: greenlet, switch: Callable[..., Any], *values: object) -> None:
        """Let a task run until it requests a forward, starts jobs or ends."""
        self.waiting.pop(task, None)
        self.drafted.pop(task, None)
        group = next((group for group in self.groups if task in group.running), None)
        try:
            value = switch(*values)
        except Exception as error:
            if group:
                del group.running[task]
                self._end_children(group.parent)
                self._resume(group.parent, group.parent.throw, error)
            elif isinstance(error, CacheFull):
                self._requeue(self.tasks.pop(task), error)
            else:
                raise
            return
        if not task.dead and isinstance(value, _Waiting):
            self.waiting[task] = value
        elif not task.dead and isinstance(value, _Drafted):
            self.drafted[task] = value
        elif not task.dead:
            self._start_children(task, value)
        elif group:
            group.results[group.running.pop(task)] = value
            if not group.running:
                self.groups.remove(group)
                results = [result for _, result in sorted(group.results.items())]
                self._resume(group.parent, group.parent.switch, results)
        else:
            self.results[self.tasks.pop(task)] = value

    def _requeue(self, job: int, error: CacheFull) -> None:
        """Requeue a job for which the KV cache is full and lower the limit; a job that ran alone fails."""
        if self.tasks:
            self.queue.appendleft(job)
            self.limit = len(self.tasks)
        else:
            self.results[job] = error

    def _start_children(self, parent: greenlet, jobs: Sequence[Callable[[], Any]]) -> None:
        """Start the jobs that a task waits for."""
        group = _JobGroup(parent, {greenlet(job): number for number, job in enumerate(jobs)})
        self.groups.append(group)
        for child in list(group.running):
            if child in group.running:  # an earlier job that fails ends the others
                self._resume(child, child.switch)

    def _end_children(self, parent: greenlet) -> None:
        """End the jobs that a task waits for, and those that they wait for."""
        for group in [group for group in self.groups if group.parent is parent]:
            self.groups.remove(group)
            for child in group.running:
                self._end_children(child)
                self.waiting.pop(child, None)
                self.drafted.pop(child, None)
                child.throw()
            group.running.clear()
