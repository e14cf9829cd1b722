"""The reference backend: strategies decode with forward passes of a transformers model."""

from collections.abc import Sequence
from contextlib import closing, suppress
from functools import partial
from itertools import islice
from typing import TypeVar

import torch

from harness.backends.backend import Backend, Decoded, Generated, Sample
from harness.backends.memory import peak_bytes, reset_peak
from harness.backends.trace import Clock, trace
from harness.engine.batching import run_batched
from harness.engine.cache import CacheFull
from harness.engine.engine import Engine
from harness.engine.kept_prefix import KeptPrefixes, pin
from harness.engine.session import Session
from harness.errors import Unsupported, UserError
from harness.models.loading import Model
from harness.models.prompts import warm_up
from harness.plugins.strategy import Strategy
from harness.store.config import RunConfig

T = TypeVar("T")

SHARED = 16  # tokens; a shorter common prefix is prefilled for each prompt rather than copied


def connect(config: RunConfig, target: Model, draft: Model | None) -> "Transformers":
    """Return the reference backend for loaded models."""
    return Transformers(target, draft, full=config.trace == "full")


def open_session(strategy: Strategy, engines: Sequence[Engine]) -> Session:
    """Open a session for `strategy` on the engine of the target and, if there is one and it needs it, of the draft."""
    draft = Session(engines[1]) if "draft" in strategy.needs and len(engines) > 1 else None
    remember = engines[0].remembered([strategy.head_kind]) if "hidden" in strategy.needs else ()
    return Session(engines[0], draft, remember)


class Transformers(Backend):
    """The reference: each sample has a session, and several are decoded in one batch; `full` is as in `trace`."""

    def __init__(self, target: Model, draft: Model | None, full: bool = False) -> None:
        self.target, self.full = target, full
        self.engines = [model.engine for model in (target, draft) if model]
        self.devices = sorted({str(device) for engine in self.engines for device in engine.devices})
        self.kept = [KeptPrefixes(engine) for engine in self.engines]
        self.room = (1, 1)  # rows and slots of the KV cache that plain decoding needs

    def max_len(self, strategy: Strategy) -> int:
        """Return the shortest context of the models that the strategy uses."""
        return min(engine.max_len for engine in (self.engines if "draft" in strategy.needs else self.engines[:1]))

    @torch.inference_mode()
    def refusal(self, strategy: Strategy) -> str | None:
        """Try the first two steps; raises `UserError` for a knob value that the models refuse.

        The run records any other failure with its sample.
        """
        try:
            request = warm_up(self.target)[0]
            with closing(open_session(strategy, self.engines)) as session:
                session.begin(request.source)
                for _ in islice(strategy.generate(session, request), 2):
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
            self._clear_learnt()
        return None

    @torch.inference_mode()
    def prepare(self, prefix: Sequence[int], slots: int, batch_size: int) -> None:
        """Reserve rows of the KV cache for the prompts of a task, and have their common prefix in it."""
        self.room = (batch_size + 1, slots)
        for engine, kept in zip(self.engines, self.kept, strict=True):
            engine.unpin()
            with suppress(CacheFull):  # then fewer sequences are decoded at a time, and nothing is shared
                engine.cache.reserve(self.room[0], min(slots, engine.max_len))
                if SHARED <= len(prefix) < engine.max_len:
                    kept.pin(prefix)

    @torch.inference_mode()
    def share(self, prompt: Sequence[int]) -> None:
        """Prefill the prompt once for all sequences that begin with it, if the cache has room and no encoder reads it.
        """
        for engine in self.engines if "prompt" in self.engines[0].offers else ():
            engine.unpin()
            try:
                pin(engine, list(prompt))
            except CacheFull:
                engine.unpin()

    @torch.inference_mode()
    def decode(self, samples: Sequence[Sample[T]], batch_size: int | None, clock: Clock) -> Decoded[T]:
        """Decode samples by continuous batching, and measure memory, batch size and padding."""
        reset_peak(*self.devices)
        target, done = self.engines[0], list[int]()
        start, before = clock(), (target.forwards, target.positions, target.padding)
        jobs = [partial(self._decoded, sample, clock, done) for sample in samples]
        results = run_batched(self.engines, jobs, batch_size or 0)
        seconds, peak = clock() - start, peak_bytes(*self.devices)
        now = target.forwards, target.positions, target.padding
        for engine in self.engines:
            engine.cache.trim(*self.room)
        forwards, positions, padding = (b - a for a, b in zip(before, now, strict=True))
        measured = {"peak_bytes": peak, "batch": sum(done) / forwards if forwards else 0.0,
                    "padding": padding / (positions + padding) if positions else 0.0}
        return Decoded(results, start, seconds, [0.0] * len(samples), measured)

    def warm_up(self, strategies: Sequence[Strategy], batch_size: int | None, clock: Clock) -> None:
        """Decode a few tokens with every strategy, and clear the state that strategies learnt from them."""
        super().warm_up(strategies, batch_size, clock)
        self._clear_learnt()

    def _decoded(self, sample: Sample[T], clock: Clock, done: list[int]) -> T | Exception:
        """Return the result of one sample, or its error; raises `CacheFull`, after which it may be tried again.

        The forward passes of a finished sample are added to `done`.
        """
        session, forwards = None, 0
        try:
            session = open_session(sample.strategy, self.engines)
            turns = sample.turns()
            turn = next(turns)
            while True:
                shared, encoded = session.work.shared, session.work.encoded
                answer = trace(sample.strategy, session, turn.request, turn.rule, clock, self.full,
                               turn.given)
                forwards += sum(answer.steps.forwards)
                turn = turns.send(Generated(answer.tokens, answer.steps, answer.stop,
                                            shared=session.work.shared - shared, trees=answer.trees,
                                            ranks=answer.ranks, computed=answer.computed,
                                            surprisal=answer.surprisal, encoded=session.work.encoded - encoded,
                                            filled=answer.filled))
        except StopIteration as end:
            done.append(forwards)
            result: T = end.value
            return result
        except CacheFull:
            raise
        except Exception as error:  # a failing sample is recorded and must not end the run
            return error
        finally:
            if session:
                session.close()

    def _clear_learnt(self) -> None:
        for engine in self.engines:
            engine.learnt.clear()
