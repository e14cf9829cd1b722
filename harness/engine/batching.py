"""Texts decoded side by side: each runs as plain code in a greenlet, and their reads are merged into forwards."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from greenlet import getcurrent, greenlet

from harness.engine.cache import CacheFull
from harness.engine.engine import Engine, Outcome, Read

T = TypeVar("T")
FORWARD = 32   # what a forward costs beyond its tokens, in tokens: more padding than that is dearer than a second one
REFILL = 8     # one in so many places must be free before new texts start
WIDEST = 1024  # tokens of one forward, padding counted: more gain nothing and take memory


def run_batched(engines: Sequence[Engine], jobs: Sequence[Callable[[], T]], most: int = 0) -> list[T | CacheFull]:
    """Run `jobs`, at most `most` at a time (0: all), and return what they return, in their order.

    Every round, the waiting reads of one engine become as few forwards as padding allows. An engine is only asked when
    no later one has anything to read, and for the whole model only when no read has a hook, so that drafts are
    finished before the target checks all of them together. The
    order depends on nothing but the jobs. A forward that fails raises in the jobs that caused it; what a job raises
    ends the others too. When the cache is full the youngest job is told so; a job that lets `CacheFull` pass starts
    anew once another has ended, with fewer at a time from then on, and gives that error when it does not fit alone.
    """
    if len(jobs) > 1:
        return _Hub(engines, jobs, most or len(jobs)).run()
    try:
        return [job() for job in jobs]
    except CacheFull as error:
        return [error]


@dataclass
class _Family:
    """Jobs that one task waits for: its `children` still at work, and what the others have returned by their number."""

    parent: greenlet
    children: dict[greenlet, int] = field(default_factory=dict)
    results: dict[int, Any] = field(default_factory=dict)


class _Hub(Generic[T]):
    def __init__(self, engines: Sequence[Engine], jobs: Sequence[Callable[[], T]], most: int) -> None:
        self.engines, self.jobs, self.most = engines, jobs, most
        self.queue, self.results = deque(range(len(jobs))), dict[int, T | CacheFull]()
        self.live = dict[greenlet, int]()  # tasks and their jobs, in the order in which they started
        self.families = list[_Family]()
        self.waiting = dict[greenlet, tuple[Engine, Read]]()
        self.here = getcurrent()

    def run(self) -> list[T | CacheFull]:
        plain = [(engine, engine.submit, engine.several) for engine in self.engines]
        for engine in self.engines:
            engine.submit = lambda read, engine=engine: self.here.switch((engine, read))  # type: ignore[misc]
            engine.several = lambda jobs: self.here.switch(list(jobs))
        try:
            while self.queue or self.live:
                self._refill()
                self._round()
        finally:
            for task in self.live:
                self._end_children(task)
                task.throw()
            for engine, submit, several in plain:
                engine.submit, engine.several = submit, several
        return [self.results[i] for i in range(len(self.jobs))]

    def _refill(self) -> None:
        """Start jobs once there is room for several, so that their prompts are read in one forward."""
        room = min(self.most - len(self.live), len(self.queue))
        if room >= min(self.most // REFILL, len(self.queue)) or not self.live:
            for _ in range(room):
                job = self.queue.popleft()
                task = greenlet(self.jobs[job])
                self.live[task] = job
                self._resume(task, task.switch)

    def _round(self) -> None:
        """Read what waits for the last engine that has something waiting, and hand it out."""
        engine = next((e for e in self.engines[::-1] if any(e is wanted for wanted, _ in self.waiting.values())), None)
        if engine is None:
            return
        mine = [(task, read) for task, (wanted, read) in self.waiting.items() if wanted is engine]
        hook, draft = next(((r.hook, r.draft) for _, r in mine if r.hook is not None or r.draft), (None, False))
        mine = [(task, read) for task, read in mine if (read.hook, read.draft) == (hook, draft)]
        said = dict[greenlet, Outcome | Exception]()
        for group in merged([(read.row.index, len(read.tokens)) for _, read in mine]):
            said |= self._read(engine, [mine[i][0] for i in group])
        for task, outcome in said.items():
            if task in self.waiting:
                self._resume(task, task.throw if isinstance(outcome, Exception) else task.switch, outcome)

    def _read(self, engine: Engine, tasks: Sequence[greenlet]) -> dict[greenlet, Outcome | Exception]:
        tasks = [task for task in tasks if task in self.waiting]
        try:
            return dict(zip(tasks, engine.run([self.waiting[task][1] for task in tasks]), strict=True)) if tasks else {}
        except CacheFull as error:
            youngest = list(self.live)[-1]
            self._end_children(youngest)
            self._resume(youngest, youngest.throw, error)
            return self._read(engine, tasks)
        except Exception as error:  # belongs to the texts of this forward, which can be recorded as failed
            if len(tasks) == 1:
                return {tasks[0]: error}
            return {task: said for each in tasks for task, said in self._read(engine, [each]).items()}

    def _resume(self, task: greenlet, go: Callable[..., Any], *given: object) -> None:
        """Let a task go on until it reads, asks for others, or ends."""
        self.waiting.pop(task, None)
        family = next((each for each in self.families if task in each.children), None)
        try:
            said = go(*given)
        except Exception as error:
            if family:
                del family.children[task]
                self._end_children(family.parent)
                self._resume(family.parent, family.parent.throw, error)
            elif isinstance(error, CacheFull):
                self._full(self.live.pop(task), error)
            else:
                raise
            return
        if not task.dead and isinstance(said, tuple):
            self.waiting[task] = said
        elif not task.dead:
            self._start_children(task, said)
        elif family:
            family.results[family.children.pop(task)] = said
            if not family.children:
                self.families.remove(family)
                results = [result for _, result in sorted(family.results.items())]
                self._resume(family.parent, family.parent.switch, results)
        else:
            self.results[self.live.pop(task)] = said

    def _full(self, job: int, error: CacheFull) -> None:
        """A job that does not fit beside the others is put off; one that does not fit alone fails."""
        if self.live:
            self.queue.appendleft(job)
            self.most = len(self.live)
        else:
            self.results[job] = error

    def _start_children(self, parent: greenlet, jobs: Sequence[Callable[[], Any]]) -> None:
        family = _Family(parent, {greenlet(job): number for number, job in enumerate(jobs)})
        self.families.append(family)
        for child in list(family.children):
            if child in family.children:  # else an earlier one has failed, which ends the others
                self._resume(child, child.switch)

    def _end_children(self, parent: greenlet) -> None:
        """End what a task waits for, and what that waits for."""
        for family in [each for each in self.families if each.parent is parent]:
            self.families.remove(family)
            for child in family.children:
                self._end_children(child)
                self.waiting.pop(child, None)
                child.throw()
            family.children.clear()


def merged(reads: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Which reads, given as (row, tokens), share a forward: the grouping that computes least, padding counted.

    Reads are sorted by length and cut where a second forward is cheaper than padding; rows in between that do not
    read are padding too. Returns the groups' indices, the longest reads first.
    """
    order = sorted(range(len(reads)), key=lambda i: (-reads[i][1], reads[i][0]))
    ends = [i for i in range(1, len(order) + 1) if i == len(order) or reads[order[i]][1] != reads[order[i - 1]][1]]
    best: dict[int, tuple[int, list[list[int]]]] = {0: (0, [])}
    for end in ends:
        options = []
        for start, (cost, groups) in best.items():
            runs = list(_runs(sorted(order[start:end], key=lambda i: reads[i][0]), reads, reads[order[start]][1]))
            more = sum(FORWARD + (reads[run[-1]][0] - reads[run[0]][0] + 1) * reads[order[start]][1] for run in runs)
            options.append((cost + more, groups + runs))
        best[end] = min(options, key=lambda option: option[0])
    return best[len(order)][1]


def _runs(group: Sequence[int], reads: Sequence[tuple[int, int]], width: int) -> Iterator[list[int]]:
    """Cut a group, sorted by row, where the rows in between cost more than a forward, or where it grows too wide."""
    run = [group[0]]
    for i in group[1:]:
        row = reads[i][0]
        if (row - reads[run[-1]][0] - 1) * width > FORWARD or (row - reads[run[0]][0] + 1) * width > WIDEST:
            yield run
            run = []
        run.append(i)
    yield run
