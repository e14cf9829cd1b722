"""Texts decoded side by side: each runs as plain code in a greenlet, and their reads are merged into one forward."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

from harness.decoding.engine import Engine, Outcome, Read

T = TypeVar("T")
LONG = 64  # a read of more tokens runs alone, so that padding never multiplies the work


def together(engines: Sequence[Engine], jobs: Sequence[Callable[[], T]]) -> list[T]:
    """Run `jobs` in lockstep: every round, the waiting reads of each engine become one forward pass.

    The order of rounds and rows depends on nothing but the jobs. A forward that fails raises in the jobs that wait for
    it; a job should catch what it can answer for, since what it raises ends the others too.
    """
    if len(jobs) == 1:
        return [jobs[0]()]
    hub, waiting = getcurrent(), list[tuple[greenlet, Engine, Read]]()
    results: dict[greenlet, T] = {}

    def resume(task: greenlet, outcome: Outcome | Exception | None) -> None:
        said: Any = (task.switch() if outcome is None else task.throw(outcome) if isinstance(outcome, Exception)
                     else task.switch(outcome))
        if task.dead:
            results[task] = said
        else:
            waiting.append((task, *said))

    tasks = [greenlet(job) for job in jobs]
    plain = [engine.submit for engine in engines]
    for engine in engines:
        engine.submit = lambda read, engine=engine: hub.switch((engine, read))  # type: ignore[misc]
    try:
        for task in tasks:
            resume(task, None)
        while waiting:
            now, waiting[:] = list(waiting), []
            for group in _merged(now):
                outcomes = _outcomes([read for _, _, read in group], group[0][1])
                for (task, _, _), outcome in zip(group, outcomes, strict=True):
                    resume(task, outcome)
    finally:
        for engine, submit in zip(engines, plain, strict=True):
            engine.submit = submit
    return [results[task] for task in tasks]


def _outcomes(reads: list[Read], engine: Engine) -> Sequence[Outcome | Exception]:
    try:
        return engine.run(reads)
    except Exception as error:  # belongs to the texts of this forward, which can be recorded as failed
        return [error] * len(reads)


def _merged(waiting: list[tuple[greenlet, Engine, Read]]) -> list[list[tuple[greenlet, Engine, Read]]]:
    """Groups that share a forward: the short reads of one engine, and every long read by itself."""
    groups: dict[object, list[tuple[greenlet, Engine, Read]]] = {}
    for place, item in enumerate(waiting):
        _, engine, read = item
        groups.setdefault((id(engine), place if len(read.tokens) > LONG else -1), []).append(item)
    return [sorted(group, key=lambda item: item[2].row) for group in groups.values()]
