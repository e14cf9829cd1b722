"""The transformers library: strategies run as our own code on the model's forward passes."""

from collections.abc import Sequence
from contextlib import closing, suppress
from functools import partial
from itertools import islice
from typing import TypeVar

import torch

from harness.backends.backend import Backend, Decoded, Generated, Sample
from harness.backends.memory import forget_peak, peak_bytes
from harness.backends.trace import Clock, trace
from harness.engine.batching import run_batched
from harness.engine.cache import CacheFull
from harness.engine.engine import Engine
from harness.engine.session import Session, pin
from harness.errors import Unsupported, UserError
from harness.models.loading import Model
from harness.models.prompts import common_start, warm_up
from harness.plugins.strategy import Strategy
from harness.store.config import RunConfig

T = TypeVar("T")

SHARED = 16  # tokens: a shorter common start is read again rather than copied


def connect(config: RunConfig, target: Model, draft: Model | None) -> "Transformers":
    """The reference backend for loaded models."""
    return Transformers(config.device, target, draft)


def open_session(strategy: Strategy, engines: Sequence[Engine]) -> Session:
    """A new sequence for `strategy`: the target's engine comes first, then the draft model's."""
    draft = Session(engines[1]) if "draft" in strategy.needs else None
    return Session(engines[0], draft, remember="hidden" in strategy.needs)


class Transformers(Backend):
    """The reference: one session a sample, several of them decoded in one batch."""

    def __init__(self, device: str, target: Model, draft: Model | None) -> None:
        self.device, self.target = device, target
        self.engines = [model.engine for model in (target, draft) if model]
        self.room = (1, 1)  # rows and slots of the KV cache that plain decoding takes

    def max_len(self, strategy: Strategy) -> int:
        """The shortest context of the models that the strategy uses."""
        return min(engine.max_len for engine in (self.engines if "draft" in strategy.needs else self.engines[:1]))

    @torch.inference_mode()
    def refusal(self, strategy: Strategy) -> str | None:
        """Try the first two steps; raises `UserError` for a knob that the models refuse.

        Any other failure is left to the run, which records it with the sample that it belongs to.
        """
        try:
            with closing(open_session(strategy, self.engines)) as session:
                for _ in islice(strategy.generate(session, warm_up(self.target)[0]), 2):
                    pass
        except Unsupported as error:
            return str(error)
        except CacheFull:
            return None
        except UserError:
            raise
        except Exception:  # the run records it
            return None
        finally:
            self._forget()
        return None

    @torch.inference_mode()
    def prepare(self, prompts: Sequence[list[int]], max_tokens: int, batch_size: int, share_prefix: bool) -> None:
        """Reserve rows of the KV cache for the prompts of a task, and keep their common start there."""
        start = common_start(prompts) if len(prompts) > 1 and share_prefix else []
        slots = max(map(len, prompts), default=0) + max_tokens
        self.room = (batch_size + 1, slots)
        for engine in self.engines:
            engine.unpin()
            with suppress(CacheFull):  # then fewer sequences are decoded at a time, and nothing is shared
                engine.cache.reserve(self.room[0], min(slots, engine.max_len))
                if SHARED <= len(start) < engine.max_len:
                    pin(engine, start)

    @torch.inference_mode()
    def share(self, prompt: Sequence[int]) -> None:
        """Prefill the prompt once for all sequences that begin with it; where there is no room, each prefills it."""
        for engine in self.engines:
            engine.unpin()
            try:
                pin(engine, list(prompt))
            except CacheFull:
                engine.unpin()

    @torch.inference_mode()
    def decode(self, samples: Sequence[Sample[T]], batch_size: int | None, clock: Clock) -> Decoded[T]:
        """Decode samples by continuous batching, and measure memory, batch sizes and padding meanwhile."""
        forget_peak(self.device)
        target, done = self.engines[0], list[int]()
        start, before = clock(), (target.forwards, target.positions, target.padding)
        jobs = [partial(self._decoded, sample, clock, done) for sample in samples]
        results = run_batched(self.engines, jobs, batch_size or 0)
        seconds, peak = clock() - start, peak_bytes(self.device)
        now = target.forwards, target.positions, target.padding
        for engine in self.engines:
            engine.cache.trim(*self.room)
        forwards, positions, padding = (b - a for a, b in zip(before, now, strict=True))
        measured = {"peak_bytes": peak, "batch": sum(done) / forwards if forwards else 0.0,
                    "padding": padding / (positions + padding) if positions else 0.0}
        return Decoded(results, start, seconds, [0.0] * len(samples), measured)

    def warm_up(self, strategies: Sequence[Strategy], batch_size: int | None, clock: Clock) -> None:
        """Decode a few tokens with every strategy, and forget what they learnt from them."""
        super().warm_up(strategies, batch_size, clock)
        self._forget()

    def _decoded(self, sample: Sample[T], clock: Clock, done: list[int]) -> T | Exception:
        """The result of one sample, or its error; raises `CacheFull`, after which it may be tried again.

        The forward passes of a finished sample are added to `done`.
        """
        session, forwards = None, 0
        try:
            session = open_session(sample.strategy, self.engines)
            turns = sample.turns()
            turn = next(turns)
            while True:
                shared = session.work.shared
                found = trace(sample.strategy, session, turn.request, turn.rule, clock)
                forwards += sum(found.steps.forwards)
                turn = turns.send(Generated(found.tokens, found.steps, found.stop,
                                            shared=session.work.shared - shared))
        except StopIteration as end:
            done.append(forwards)
            result: T = end.value
            return result
        except CacheFull:
            raise
        except Exception as error:  # one bad sample must not end a run: it is recorded
            return error
        finally:
            if session:
                session.close()

    def _forget(self) -> None:
        for engine in self.engines:
            engine.learnt.clear()
