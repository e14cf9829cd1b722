"""Backends that decode whole answers by themselves: prompts go out turn by turn, and answers are cut as always."""

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
    """One prompt (token ids) to continue by at most `max_tokens`, its seed, and what ends the answer.

    `sample` counts the answers to one prompt from 0: sample i of a search is its i-th best.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    seed: int
    eos: frozenset[int] = frozenset()
    stops: tuple[str, ...] = ()
    sample: int = 0


class ExternalBackend(Backend):
    """A backend whose engine decodes; `context` is the most tokens that prompt and answer may have together."""

    context: int

    def max_len(self, strategy: Strategy) -> int:
        """The same for every strategy."""
        return self.context

    @abstractmethod
    def generate(self, strategy: Strategy, requests: Sequence[GenerationRequest],
                 batch_size: int | None) -> Sequence[Generated | Exception]:
        """The answer to each request, `batch_size` at a time (None: as they arrive); it may go on past its end.

        Raises `UserError`, or has `BackendLost` in place of an answer, when the backend no longer answers.
        """

    def counters(self) -> Mapping[str, float]:
        """What the backend has counted of its own accord since it started; empty where that says nothing."""
        return {}

    def decode(self, samples: Sequence[Sample[T]], batch_size: int | None, clock: Clock) -> Decoded[T]:
        """Decode first turns together, then second ones; what the samples share of a batch is not known."""
        before, start = self.counters(), clock()
        results, sent = self._conversations(samples, batch_size)
        seconds, now = clock() - start, self.counters()
        counted = {name: (value - before.get(name, 0.0)) / len(samples) for name, value in now.items()}
        unknown = {} if batch_size == 1 else {"batch": NAN, "padding": NAN}
        return Decoded(results, start, seconds, sent, {"counted": counted, **unknown})

    def _conversations(self, samples: Sequence[Sample[T]], batch_size: int | None
                       ) -> tuple[list[T | Exception], list[float]]:
        """The result of each sample, and when its first request was sent."""
        turns = [sample.turns() for sample in samples]
        results, sent = dict[int, T | Exception](), dict[int, float]()
        waiting = dict[int, TurnRequest]()

        def proceed(place: int, answer: Generated | None) -> None:
            try:
                waiting[place] = turns[place].send(answer) if answer else next(turns[place])
            except StopIteration as end:
                results[place] = end.value
            except Exception as error:  # one bad sample must not end a run: it is recorded
                results[place] = error

        for place in range(len(samples)):
            proceed(place, None)
        while waiting:
            asked, waiting = waiting, {}
            for place, answer in self._answers(samples, asked, batch_size):
                if isinstance(answer, Exception):
                    results[place] = answer
                else:
                    sent.setdefault(place, answer.sent)
                    proceed(place, answer)
        order = range(len(samples))
        return [results[place] for place in order], [sent.get(place, 0.0) for place in order]

    def _answers(self, samples: Sequence[Sample[Any]], asked: Mapping[int, TurnRequest], batch_size: int | None
                 ) -> Generator[tuple[int, Generated | Exception], None, None]:
        """The place of each request with its answer; requests of one strategy go out together."""
        for strategy in dict.fromkeys(samples[place].strategy for place in asked):
            places = [place for place in asked if samples[place].strategy == strategy]
            size = 1 if batch_size == 1 else len(places)
            for start in range(0, len(places), size):
                group = places[start:start + size]
                answers = self.generate(strategy, [_request(asked[place]) for place in group], batch_size)
                for place, answer in zip(group, answers, strict=True):
                    yield place, answer if isinstance(answer, Exception) else ended(asked[place], answer)


def _request(turn: TurnRequest) -> GenerationRequest:
    request = turn.request
    return GenerationRequest(request.prompt, request.max_new_tokens, turn.seed, request.eos, turn.rule.stops,
                             request.sample)


def ended(turn: TurnRequest, answer: Generated) -> Generated:
    """The answer, ended where the reference would have ended it; of one without token ids the server decides."""
    return answer if answer.text is not None else cut(turn.rule, turn.request.max_new_tokens, answer)


def cut(rule: StopRule, limit: int, answer: Generated) -> Generated:
    """The answer up to EOS, a stop string or `limit` tokens, and its steps up to there."""
    found, tokens = rule.cut(answer.tokens, len(answer.tokens)), answer.tokens
    if found and found.kept <= limit:
        steps = first_steps(answer.steps, found.kept)
        return replace(answer, tokens=tokens[:found.kept], stop=found.reason, steps=steps)
    if len(tokens) >= limit:
        return replace(answer, tokens=tokens[:limit], stop="length", steps=first_steps(answer.steps, limit))
    return replace(answer, stop="ended" if answer.stop in ("length", "unknown") else answer.stop)


def first_steps(steps: Steps, kept: int) -> Steps:
    """The steps of the first `kept` tokens: the last one is cut, and none follows it."""
    tokens = fitted(steps.tokens, kept)
    count = next((i for i, left in enumerate(tokens) if sum(tokens[:i]) >= kept), len(tokens)) if kept else 0
    columns = {name: values[:count] for name, values in steps if values}
    return Steps(**{**columns, "tokens": tokens[:count]})
