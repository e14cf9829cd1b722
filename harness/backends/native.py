"""What a backend does that decodes whole answers by itself, and how a cell of a run is asked of it."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from harness.errors import UserError
from harness.models.loading import Model
from harness.plugins.strategy import Strategy
from harness.store.config import RunConfig
from harness.store.schema import Steps, Stop


@dataclass(frozen=True)
class Ask:
    """One text to continue: token ids of the `prompt`, a `seed` of its own, and what ends the answer.

    `sample` counts the answers to one prompt from 0: sample i of a search is its i-th best.
    """

    prompt: tuple[int, ...]
    most: int
    seed: int
    eos: frozenset[int] = frozenset()
    stops: tuple[str, ...] = ()
    sample: int = 0


@dataclass(frozen=True)
class Answer:
    """What came back: token ids with EOS, perhaps past the end (the harness cuts), and its steps.

    What a backend does not tell is unknown, as `Steps` says; never zero, and never a guess. `text` is only for one that
    tells no token ids; `stop` is then why the answer ended, and otherwise what ended it unless the harness finds out.
    `shared` tokens of the prompt were not read, because a cache held them.
    `sent` is when it was asked for, in seconds since the cell began.
    """

    tokens: list[int]
    steps: Steps
    stop: Stop = "unknown"
    text: str | None = None
    shared: int = 0
    sent: float = 0.0


class Gone(UserError):
    """The backend is gone, and with it this answer: those before it are kept, and the same command resumes the run."""


class Native(Protocol):
    """A connected backend; `harness.backends.NAME.connect(config, target, draft)` gives one or raises `UserError`.

    `max_len` is the most tokens that prompt and answer may have together, `facts` what the manifest says of it under
    `environment.backend`, `warnings` what every report of the run must say. Strategies that cannot all be kept ready
    `side_by_side` are run one after the other instead of in turn.
    """

    max_len: int
    side_by_side: bool

    @property
    def facts(self) -> Mapping[str, Any]:
        """Versions and settings of what decodes; complete once all strategies were asked for."""
        ...

    @property
    def warnings(self) -> list[str]:
        """Sentences for the manifest, complete at the same time."""
        ...

    def refusal(self, strategy: Strategy) -> str | None:
        """Make ready for a strategy, or say why it cannot run here; raises `UserError` when nothing can."""
        ...

    def decode(self, strategy: Strategy, asks: Sequence[Ask]) -> Sequence[Answer | Exception]:
        """The answer to each, `concurrency` of the configuration at a time; an error belongs to its ask alone.

        What was lost because the backend itself is gone is `Gone`, raised or in its place: the run ends then, and the
        same command resumes it.
        """
        ...

    def close(self) -> None:
        """Let go of everything; may be called twice."""
        ...


@runtime_checkable
class Counting(Protocol):
    """A backend that has counters of its own."""

    def counters(self) -> Mapping[str, float]:
        """What it has counted of its own accord since it started; empty where that says nothing."""
        ...


def connect(config: RunConfig, target: Model, draft: Model | None) -> Native | None:
    """The backend that `config` names; None for the reference, in which strategies are our own code."""
    if config.backend == "transformers":
        return None
    backend: Native = importlib.import_module(f"harness.backends.{config.backend}").connect(config, target, draft)
    return backend
