"""Executors run the forward passes that sessions request, one at a time or merged with those of other sequences."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from harness.engine.batching import run_batched
from harness.engine.forward import ForwardRequest, ForwardRows

if TYPE_CHECKING:
    from harness.engine.engine import Engine


class Executor(Protocol):
    """Runs the forwards of one or more engines, each of which holds its current executor.

    If it `merges` the requests of several sequences, these all run in one thread.
    """

    merges: bool

    @property
    def in_flight(self) -> int:
        """The number of sequences that are being decoded."""
        ...

    def forward(self, engine: "Engine", request: ForwardRequest) -> ForwardRows:
        """Run one request on `engine` and return its output."""
        ...

    def gather(self, value: Any) -> tuple[list[Any], int]:
        """Return the values of all sequences that have drafted, and the place of this one's."""
        ...

    def run_jobs(self, engines: Sequence["Engine"], jobs: Sequence[Callable[[], Any]]) -> list[Any]:
        """Run jobs that use `engines` in one batch and return their results in order."""
        ...


class SerialExecutor:
    """Runs every request immediately in a forward of its own."""

    merges, in_flight = False, 1

    def forward(self, engine: "Engine", request: ForwardRequest) -> ForwardRows:
        """Run one request on `engine` and return its output."""
        return engine.run([request])[0]

    def gather(self, value: Any) -> tuple[list[Any], int]:
        """Return the value alone."""
        return [value], 0

    def run_jobs(self, engines: Sequence["Engine"], jobs: Sequence[Callable[[], Any]]) -> list[Any]:
        """Run jobs under a batched executor of their own and return their results in order."""
        return run_batched(engines, jobs)
