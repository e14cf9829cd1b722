"""What decodes the samples of a run: the interface that the reference, vLLM and servers share."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from harness.backends.trace import Clock
from harness.errors import UserError
from harness.models.loading import Model
from harness.models.prompts import warm_up
from harness.models.stop_rule import StopRule
from harness.plugins.strategy import Request, Strategy
from harness.store.config import RunConfig
from harness.store.schema import Steps, Stop

T = TypeVar("T")


@dataclass(frozen=True)
class TurnRequest:
    """One prompt to continue: what a strategy is given, the rule that ends the answer, and a seed of its own."""

    request: Request
    rule: StopRule
    seed: int


@dataclass(frozen=True)
class Generated:
    """The answer to one prompt: token ids with EOS, its steps, and why it ended.

    What a backend does not tell is unknown, as `Steps` says; never zero, and never a guess. `text` is given in place
    of `tokens` by a server that tells no token ids. `shared` counts the prompt tokens that came from a cache.
    `sent` is when the request was sent, in seconds after the batch began.
    """

    tokens: list[int]
    steps: Steps
    stop: Stop = "unknown"
    text: str | None = None
    shared: int = 0
    sent: float = 0.0


@dataclass(frozen=True)
class Sample(Generic[T]):
    """One sample to decode with `strategy`.

    `turns` begins its conversation: it yields a request for each turn, is sent the answer, and returns the result.
    """

    strategy: Strategy
    turns: Callable[[], Generator[TurnRequest, Generated, T]]


@dataclass(frozen=True)
class Decoded(Generic[T]):
    """The results of a batch of samples, in their order; an error belongs to its sample alone.

    `start` is the clock when the batch began, `seconds` its wall time, and `sent` when the first request of each sample
    was sent, in seconds after the start. `measured` holds fields of every record of the batch.
    """

    results: list[T | Exception]
    start: float
    seconds: float
    sent: list[float]
    measured: Mapping[str, Any] = field(default_factory=dict)


class BackendLost(UserError):
    """The backend no longer answers: the run ends, and the same command resumes it."""


class Backend(ABC):
    """Decodes samples; `harness.backends.NAME.connect(config, target, draft)` gives one or raises `UserError`.

    Strategies that cannot all be kept ready `side_by_side` are run one after the other instead of in turn.
    """

    side_by_side: bool = True
    target: Model

    @property
    def facts(self) -> Mapping[str, Any]:
        """Versions and settings for the manifest; complete once every strategy went through `refusal`."""
        return {}

    @property
    def warnings(self) -> Sequence[str]:
        """Sentences that every report of the run must show; complete at the same time as `facts`."""
        return []

    @abstractmethod
    def max_len(self, strategy: Strategy) -> int:
        """The most tokens that prompt and answer may have together."""

    @abstractmethod
    def refusal(self, strategy: Strategy) -> str | None:
        """Prepare to run a strategy, or say why it cannot run; raises `UserError` when nothing can run."""

    def prepare(self, prompts: Sequence[list[int]], max_tokens: int, batch_size: int,  # noqa: B027 - may do nothing
                share_prefix: bool) -> None:
        """Reserve memory for the prompts of a task, and share what they all begin with."""

    def share(self, prompt: Sequence[int]) -> None:  # noqa: B027 - may do nothing
        """Keep a prompt in the KV cache for all sequences that begin with it."""

    @abstractmethod
    def decode(self, samples: Sequence[Sample[T]], batch_size: int | None, clock: Clock) -> Decoded[T]:
        """Decode samples, `batch_size` at a time (None: as requests arrive).

        Raises `BackendLost`, or has it in place of a result, when the backend no longer answers.
        """

    def warm_up(self, strategies: Sequence[Strategy], batch_size: int | None, clock: Clock) -> None:
        """Decode a few tokens with every strategy, so that slow first calls are not timed."""
        request, rule = warm_up(self.target)
        for strategy in strategies:
            sample = Sample(strategy, partial(single, TurnRequest(request, rule, 0)))
            self.decode([sample] * min(2, batch_size or 1), batch_size, clock)

    def close(self) -> None:  # noqa: B027 - may do nothing
        """Release everything; may be called twice."""


def single(request: TurnRequest) -> Generator[TurnRequest, Generated, Generated]:
    """A conversation of one turn, whose result is the answer itself."""
    return (yield request)


def connect(config: RunConfig, target: Model, draft: Model | None) -> Backend:
    """The backend that `config` names."""
    backend: Backend = importlib.import_module(f"harness.backends.{config.backend}").connect(config, target, draft)
    return backend


def refusal_or_close(backend: Backend, strategy: Strategy) -> str | None:
    """Why a strategy cannot run; a backend that can run nothing is closed before its `UserError` passes."""
    try:
        return backend.refusal(strategy)
    except UserError:
        with suppress(Exception):
            backend.close()
        raise
