"""Parses the stream of one completion into an answer: bursts of tokens with their arrival times."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from pydantic import Field

from harness.backends.backend import Generated
from harness.store.completion import (
    Choice,
    Metrics,
    TokenLogprob,
    Usage,
    Verified,
    logprobs_of,
    stop_of,
    verified_of,
)
from harness.store.foreign import Row
from harness.store.schema import Steps
from harness.store.steps import spread, steps, verified


class Event(Row):
    """One event of a stream, or a whole response."""

    choices: list[Choice] = Field(default_factory=list)
    usage: Usage | None = None
    metrics: Metrics | None = None
    meta_info: Any = None
    sglext: Any = None


@dataclass(frozen=True)
class Burst:
    """The arrival time of one event, in seconds since its request, and its number of tokens, None if unknown."""

    at: float
    tokens: int | None = None


@dataclass
class Reply:
    """A completion as it arrives; of several choices only number `wanted` is used.

    `end` is the arrival time of the finish reason, `counted` the server's usage of prompt and answer tokens, `has_ids`
    whether token ids arrived, `alone` whether there is no other choice. `sglang` are the counts of drafts that SGLang
    adds, `logprobs` those of the tokens, if wanted.
    """

    wanted: int = 0
    bursts: list[Burst] = field(default_factory=list)
    text: str = ""
    ids: list[int] = field(default_factory=list)
    has_ids: bool = False
    alone: bool = True
    last: Choice | None = None
    end: float = 0.0
    counted: Usage | None = None
    metrics: Metrics | None = None
    sglang: Verified | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def add(self, event: Event, at: float) -> None:
        """Add an event that arrived `at` seconds after the request was sent."""
        self.counted, self.metrics = event.usage or self.counted, event.metrics or self.metrics
        self.sglang = verified_of(event.meta_info, event.sglext) or self.sglang
        for choice in event.choices:
            if choice.index != self.wanted:
                self.alone = False
                continue
            ids, text = choice.token_ids, choice.text or ""
            self.text, self.has_ids = self.text + text, self.has_ids or ids is not None
            self.ids += ids or []
            self.logprobs += logprobs_of(choice)
            if text or ids:
                self.bursts.append(Burst(at, None if ids is None else len(ids)))
            self.sglang = verified_of(choice.meta_info) or self.sglang
            if choice.finish_reason:
                self.last, self.end = choice, at

    def answer(self) -> Generated:
        """Return the answer; raises `ValueError` when the stream is incomplete or does not count its tokens."""
        if self.last is None:
            raise ValueError("it ended before the answer did")
        if self.has_ids:
            if self.counted and self.alone and self.counted.completion_tokens != len(self.ids):
                raise ValueError(f"it counts {self.counted.completion_tokens} tokens and has {len(self.ids)}")
            return Generated(self.ids, self._steps(len(self.ids)), stop_of(self.last), shared=self._cached)
        if self.counted is None:
            raise ValueError("it counts no tokens: stream_options.include_usage is not understood")
        return Generated([], self._steps(self.counted.completion_tokens), stop_of(self.last), self.text, self._cached)

    @property
    def _cached(self) -> int:
        """The prompt tokens that the server took from its cache."""
        details = self.counted.prompt_tokens_details if self.counted else None
        return (details.cached_tokens or 0) if details else 0

    def _steps(self, tokens: int) -> Steps:
        """Return a step per burst, with drafted and accepted tokens if the server counts them for this request."""
        counts, seconds = self._counts(tokens), [0.0, *(burst.at for burst in self._timed(tokens))]
        gaps = [late - early for early, late in pairwise(seconds)]
        drafts = self.metrics.speculative_decoding if self.metrics else None
        if tokens and drafts:
            accepted, drafted = drafts.by_step("metrics of the answer")
        elif tokens and self.sglang:
            accepted, drafted = self.sglang.by_step(tokens)
        else:
            return steps(counts, gaps)
        result = verified(tokens, accepted, drafted, (gaps[0], sum(gaps[1:])))
        return result.model_copy(update={"seconds": gaps}) if result.tokens == counts else result

    def _timed(self, tokens: int) -> list[Burst]:
        """Return the bursts, plus one for the end if it brought a token without text, which only the usage counts."""
        silent = self.last is not None and self.last.finish_reason == "stop" and self.end > self._latest
        if not self.has_ids and tokens > len(self.bursts) and (silent or not self.bursts):
            return [*self.bursts, Burst(self.end)]
        return self.bursts

    @property
    def _latest(self) -> float:
        return self.bursts[-1].at if self.bursts else 0.0

    def _counts(self, tokens: int) -> list[int]:
        """Return the tokens of each burst; without token ids the first has one and the others share the rest."""
        bursts = self._timed(tokens)
        if self.has_ids:
            return [burst.tokens or 0 for burst in bursts]
        return [1, *spread(tokens - 1, len(bursts) - 1)] if len(bursts) > 1 else [tokens] if tokens else []


def read(parts: Sequence[tuple[float, bytes]], wanted: int = 0) -> Reply:
    """Parse a reply, a stream of server-sent events or one JSON object, from its parts and their arrival times.

    The arrival time of an event is that of its last byte. Raises `ValueError` for any other content and for the
    server's own errors.
    """
    reply, left, at, whole = Reply(wanted), b"", 0.0, b"".join(part for _, part in parts).strip()
    if whole.startswith(b"{"):
        _take(reply, whole, parts[-1][0])
        return reply
    for at, part in parts:
        *lines, left = (left + part).split(b"\n")
        for line in lines:
            _take(reply, line.strip(), at)
    _take(reply, left.strip(), at)
    return reply


def _take(reply: Reply, line: bytes, at: float) -> None:
    """Parse one line, or one whole object, and add it to the reply."""
    line = line.removeprefix(b"data:").strip()
    if line in (b"", b"[DONE]") or line.startswith((b":", b"event:", b"id:", b"retry:")):
        return
    if not line.startswith(b"{"):
        raise ValueError(f"it is neither an event nor JSON: {line[:60].decode(errors='replace')!r}")
    value = json.loads(line)
    problem = value.get("error") or (value if value.get("object") == "error" else None)
    if problem:
        raise ValueError(str(problem.get("message") if isinstance(problem, dict) else problem))
    reply.add(Event.model_validate(value), at)
