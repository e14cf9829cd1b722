"""The interface of backends, which decode the samples of a run: the reference, vLLM and servers."""

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
from harness.store.computed import Computed
from harness.store.config import RunConfig
from harness.store.schema import Steps, StepTree, Stop

T = TypeVar("T")


@dataclass(frozen=True)
class TurnRequest:
    """One prompt to continue: the strategy's request, the stop rule of the answer, and a seed.

    If the answer is `given` (token ids), the strategy scores it in place of choosing one.
    """

    request: Request
    rule: StopRule
    seed: int
    given: Sequence[int] = ()


@dataclass(frozen=True)
class Generated:
    """The answer to one prompt: token ids with EOS, its steps, and why it ended.

    Values that a backend does not report are unknown, as in `Steps`, never zero and never guessed. A server without
    token ids gives `text` in place of `tokens`. `shared` counts the prompt tokens that came from a cache. `sent` is the
    time when the request was sent, in seconds after the batch began. `trees` are those of the steps and
    `ranks` those of the tokens, if wanted; `computed` is what the steps computed, if known, and `surprisal` is that of
    the tokens if they were given. `encoded` counts the tokens that an encoder read, and `filled` is that of the record.
    """

    tokens: list[int]
    steps: Steps
    stop: Stop = "unknown"
    text: str | None = None
    shared: int = 0
    sent: float = 0.0
    trees: Sequence[StepTree] = ()
    ranks: Sequence[int] = ()
    surprisal: Sequence[float] = ()
    computed: Computed | None = None
    encoded: int = 0
    filled: Sequence[int] = ()


@dataclass(frozen=True)
class Sample(Generic[T]):
    """One sample to decode with `strategy`.

    `turns` starts its conversation: a generator that yields a request for each turn, receives the answer, and returns
    the result.
    """

    strategy: Strategy
    turns: Callable[[], Generator[TurnRequest, Generated, T]]


@dataclass(frozen=True)
class Decoded(Generic[T]):
    """The results of a batch of samples in order; the result of a failed sample is its error.

    `start` is the clock time when the batch began, `seconds` its wall time, and `sent` the time of each sample's first
    request, in seconds after the start. `measured` holds fields for every record of the batch.
    """

    results: list[T | Exception]
    start: float
    seconds: float
    sent: list[float]
    measured: Mapping[str, Any] = field(default_factory=dict)


class BackendLost(UserError):
    """The backend no longer answers; the run ends and can be resumed with the same command."""


class Backend(ABC):
    """Decodes samples; `harness.backends.NAME.connect(config, target, draft)` returns one or raises `UserError`.

    Strategies are interleaved if all can be loaded `side_by_side`; otherwise they run one after the other.
    """

    side_by_side: bool = True
    target: Model

    @property
    def facts(self) -> Mapping[str, Any]:
        """Versions and settings for the manifest, complete after `refusal` was called for every strategy."""
        return {}

    @property
    def warnings(self) -> Sequence[str]:
        """Warnings for every report of the run, complete when `facts` are."""
        return []

    @abstractmethod
    def max_len(self, strategy: Strategy) -> int:
        """Return the maximum number of tokens of prompt and answer together."""

    @abstractmethod
    def refusal(self, strategy: Strategy) -> str | None:
        """Prepare to run a strategy; returns why it cannot run, or None. Raises `UserError` when nothing can run."""

    def prepare(self, prefix: Sequence[int], slots: int, batch_size: int) -> None:  # noqa: B027 - may do nothing
        """Reserve memory for sequences of up to `slots` tokens, and keep the `prefix` that all of them begin with."""

    def share(self, prompt: Sequence[int]) -> None:  # noqa: B027 - may do nothing
        """Keep a prompt in the KV cache for all sequences that begin with it."""

    @abstractmethod
    def decode(self, samples: Sequence[Sample[T]], batch_size: int | None, clock: Clock) -> Decoded[T]:
        """Decode samples, `batch_size` at a time (None: as requests arrive).

        When the backend no longer answers, `BackendLost` is raised or is the result of samples.
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
    """Run a conversation of one turn, whose result is the answer."""
    return (yield request)


def connect(config: RunConfig, target: Model, draft: Model | None) -> Backend:
    """Return the backend that `config` names."""
    backend: Backend = importlib.import_module(f"harness.backends.{config.backend}").connect(config, target, draft)
    return backend


def refusal_or_close(backend: Backend, strategy: Strategy) -> str | None:
    """Return why a strategy cannot run, or None; closes the backend when it raises `UserError`."""
    try:
        return backend.refusal(strategy)
    except UserError:
        with suppress(Exception):
            backend.close()
        raise
