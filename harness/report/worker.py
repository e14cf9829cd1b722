"""A second process for the parts of a large report that do not need its tables."""

import signal
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

MANY = 50_000  # samples whose reading takes longer than the start of another process
P = ParamSpec("P")
T = TypeVar("T")


def worker(samples: int) -> Executor:
    """Return what carries out one call after the other: another process if there are many samples, else this one."""
    # Ctrl-C reaches both processes: this one says what it means, the other ends without a word.
    ends = (signal.SIGINT, signal.SIG_DFL)
    return ProcessPoolExecutor(1, get_context("spawn"), signal.signal, ends) if samples >= MANY else _Here()


class _Here(Executor):
    def submit(self, call: Callable[P, T], /, *arguments: P.args, **options: P.kwargs) -> Future[T]:
        done = Future[T]()
        done.set_result(call(*arguments, **options))
        return done
