"""Backends that decode whole answers by themselves: requests go out turn by turn, and answers are cut afterwards."""

from abc import abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from harness.backends.backend import Backend, Decoded, Generated, Sample, TurnRequest
from harness.backends.trace import Clock
from harness.models.stop_rule import StopRule
from harness.plugins.strategy import Strategy
from harness.store.schema import Steps
from harness.store.steps import fitted

T = TypeVar("T")
NAN = float("nan")


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt (token ids) to continue by at most `max_tokens`, with its seed, EOS ids and stop strings.

    `sample` is the index of the answer to its prompt; sample i of a search is its i-th best hypothesis.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    seed: int
    eos: frozenset[int] = frozenset()
    stops: tuple[str, ...] = ()
    sample: int = 0


class ExternalBackend(Backend):
    """A backend whose engine decodes; `context` is the maximum number of tokens of prompt and answer together."""

    context: int

    def max_len(self, strategy: Strategy) -> int:
        """Return the context, which is the same for every strategy."""
        return self.context

    @abstractmethod
    def generate(self, strategy: Strategy, requests: Sequence[GenerationRequest],
                 batch_size: int | None) -> Sequence[Generated | Exception]:
        """Return the answer to each request, `batch_size` at a time (None: as they arrive); answers are cut later.

        When the backend no longer answers, `UserError` is raised or `BackendLost` is the result of requests.
        """

    def counters(self) -> Mapping[str, float]:
        """Return the backend's own counters since its start; empty if it has none."""
        return {}

    def decode(self, samples: Sequence[Sample[T]], batch_size: int | None, clock: Clock) -> Decoded[T]:
        """Decode first turns together, then second ones; batch size and padding are unknown above batch size 1."""
        before, start = self.counters(), clock()
        results, sent = self._conversations(samples, batch_size)
        seconds, now = clock() - start, self.counters()
        counted = {name: (value - before.get(name, 0.0)) / len(samples) for name, value in now.items()}
        unknown = {} if batch_size == 1 else {"batch": NAN, "padding": NAN}
        return Decoded(results, start, seconds, sent, {"counted": counted, **unknown})

    def _conversations(self, samples: Sequence[Sample[T]], batch_size: int | None
                       ) -> tuple[list[T | Exception], list[float]]:
        """Return the result of each sample, and the time when its first request was sent."""
        turns = [sample.turns() for sample in samples]
        results, sent = dict[int, T | Exception](), dict[int, float]()
        waiting = dict[int, TurnRequest]()

        def proceed(index: int, answer: Generated | None) -> None:
            try:
                waiting[index] = turns[index].send(answer) if answer else next(turns[index])
            except StopIteration as end:
                results[index] = end.value
            except Exception as error:  # a failing sample is recorded and must not end the run
                results[index] = error

        for index in range(len(samples)):
            proceed(index, None)
        while waiting:
            requests, waiting = waiting, {}
            for index, answer in self._answers(samples, requests, batch_size):
                if isinstance(answer, Exception):
                    results[index] = answer
                else:
                    sent.setdefault(index, answer.sent)
                    proceed(index, answer)
        order = range(len(samples))
        return [results[index] for index in order], [sent.get(index, 0.0) for index in order]

    def _answers(self, samples: Sequence[Sample[Any]], requests: Mapping[int, TurnRequest], batch_size: int | None
                 ) -> Generator[tuple[int, Generated | Exception], None, None]:
        """Yield the index of each request with its answer; requests of one strategy are sent together."""
        for strategy in dict.fromkeys(samples[index].strategy for index in requests):
            indices = [index for index in requests if samples[index].strategy == strategy]
            size = 1 if batch_size == 1 else len(indices)
            for start in range(0, len(indices), size):
                group = indices[start:start + size]
                answers = self.generate(strategy, [_request(requests[index]) for index in group], batch_size)
                for index, answer in zip(group, answers, strict=True):
                    yield index, answer if isinstance(answer, Exception) else ended(requests[index], answer)


def _request(turn: TurnRequest) -> GenerationRequest:
    request = turn.request
    return GenerationRequest(request.prompt, request.max_new_tokens, turn.seed, request.eos, turn.rule.stops,
                             request.sample)


def ended(turn: TurnRequest, answer: Generated) -> Generated:
    """Cut an answer where the reference would have ended it; an answer without token ids stays as it is."""
    return answer if answer.text is not None else cut(turn.rule, turn.request.max_new_tokens, answer)


def cut(rule: StopRule, limit: int, answer: Generated) -> Generated:
    """Cut an answer and its steps at EOS, a stop string or `limit` tokens."""
    end, tokens = rule.cut(answer.tokens, len(answer.tokens)), answer.tokens
    if end and end.kept <= limit:
        steps = first_steps(answer.steps, end.kept)
        return replace(answer, tokens=tokens[:end.kept], stop=end.reason, steps=steps)
    if len(tokens) >= limit:
        return replace(answer, tokens=tokens[:limit], stop="length", steps=first_steps(answer.steps, limit))
    return replace(answer, stop="ended" if answer.stop in ("length", "unknown") else answer.stop)


def first_steps(steps: Steps, kept: int) -> Steps:
    """Return the steps of the first `kept` tokens, with the last step cut to them."""
    tokens = fitted(steps.tokens, kept)
    count = next((i for i, left in enumerate(tokens) if sum(tokens[:i]) >= kept), len(tokens)) if kept else 0
    columns = {name: values[:count] for name, values in steps if values}
    return Steps(**{**columns, "tokens": tokens[:count]})
