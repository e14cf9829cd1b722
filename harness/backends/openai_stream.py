"""What a server sent for one completion, and the answer that this makes: bursts at their times, tokens as counted."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from pydantic import Field

from harness.backends.backend import Generated
from harness.store.completion import Choice, Metrics, Usage, stop_of
from harness.store.foreign import Row
from harness.store.schema import Steps
from harness.store.steps import spread, steps, verified


class Event(Row):
    """One event of a stream, or a whole response."""

    choices: list[Choice] = Field(default_factory=list)
    usage: Usage | None = None
    metrics: Metrics | None = None


@dataclass(frozen=True)
class Burst:
    """What one event brought: when, in seconds since the request was sent, and how many tokens, None when not told."""

    at: float
    tokens: int | None = None


@dataclass
class Reply:
    """A completion while it comes in; of several choices only that of number `wanted` counts.

    `end` is when the reason for its end came, `counted` are the tokens of the prompt and of the answer by the server's
    own usage, `told` whether token ids came, `alone` whether there is no other choice.
    """

    wanted: int = 0
    bursts: list[Burst] = field(default_factory=list)
    text: str = ""
    ids: list[int] = field(default_factory=list)
    told: bool = False
    alone: bool = True
    last: Choice | None = None
    end: float = 0.0
    counted: Usage | None = None
    metrics: Metrics | None = None

    def add(self, event: Event, at: float) -> None:
        """Take in an event that came `at` seconds after the request was sent."""
        self.counted, self.metrics = event.usage or self.counted, event.metrics or self.metrics
        for choice in event.choices:
            if choice.index != self.wanted:
                self.alone = False
                continue
            ids, text = choice.token_ids, choice.text or ""
            self.text, self.told = self.text + text, self.told or ids is not None
            self.ids += ids or []
            if text or ids:
                self.bursts.append(Burst(at, None if ids is None else len(ids)))
            if choice.finish_reason:
                self.last, self.end = choice, at

    def answer(self) -> Generated:
        """The answer; raises `ValueError` when the stream broke off, or lacks what cannot be guessed."""
        if self.last is None:
            raise ValueError("it ended before the answer did")
        if self.told:
            if self.counted and self.alone and self.counted.completion_tokens != len(self.ids):
                raise ValueError(f"it counts {self.counted.completion_tokens} tokens and has {len(self.ids)}")
            return Generated(self.ids, self._steps(len(self.ids)), stop_of(self.last), shared=self._cached)
        if self.counted is None:
            raise ValueError("it counts no tokens: stream_options.include_usage is not understood")
        return Generated([], self._steps(self.counted.completion_tokens), stop_of(self.last), self.text, self._cached)

    @property
    def _cached(self) -> int:
        """The tokens of the prompt that the server says it did not read."""
        details = self.counted.prompt_tokens_details if self.counted else None
        return (details.cached_tokens or 0) if details else 0

    def _steps(self, tokens: int) -> Steps:
        """Steps of the bursts; of drafts only what the server counts for this request."""
        counts, seconds = self._counts(tokens), [0.0, *(burst.at for burst in self._timed(tokens))]
        gaps = [late - early for early, late in pairwise(seconds)]
        drafts = self.metrics.speculative_decoding if self.metrics else None
        if drafts is None or not tokens:
            return steps(counts, gaps)
        accepted, drafted = drafts.by_step("metrics of the answer")
        found = verified(tokens, accepted, drafted, (gaps[0], sum(gaps[1:])))
        return found.model_copy(update={"seconds": gaps}) if found.tokens == counts else found

    def _timed(self, tokens: int) -> list[Burst]:
        """The bursts, the end among them where it must have brought a token that has no text (usage counts it)."""
        silent = self.last is not None and self.last.finish_reason == "stop" and self.end > self._latest
        if not self.told and tokens > len(self.bursts) and (silent or not self.bursts):
            return [*self.bursts, Burst(self.end)]
        return self.bursts

    @property
    def _latest(self) -> float:
        return self.bursts[-1].at if self.bursts else 0.0

    def _counts(self, tokens: int) -> list[int]:
        """Tokens of each burst; where the server does not tell, the first has one and the rest share evenly."""
        bursts = self._timed(tokens)
        if self.told:
            return [burst.tokens or 0 for burst in bursts]
        return [1, *spread(tokens - 1, len(bursts) - 1)] if len(bursts) > 1 else [tokens] if tokens else []


def read(parts: Sequence[tuple[float, bytes]], wanted: int = 0) -> Reply:
    """The reply in a stream of server-sent events, or in one JSON object, that came in parts at these times.

    An event came when its last byte did. Raises `ValueError` for anything else, and with the server's own words.
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
    """One line, or one whole object."""
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
