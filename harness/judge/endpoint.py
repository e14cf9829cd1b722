"""A judge behind an OpenAI-compatible endpoint: asked side by side, again when that can help, and never for too much.

What an endpoint does wrong is retried where trying again can help (no connection, no answer in time, 408, 409, 429,
5xx, an answer that cannot be read) after 1, 2, 4, … seconds up to 60, each shortened by up to a half at random, but no
sooner than it asks for. What stays wrong is a failure of that verdict; five of them in a row end the judging.
"""

import email.utils
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event
from typing import Any
from urllib.parse import urlsplit

from harness.errors import UserError
from harness.judge.reply import Reply, Save
from harness.task import Message

OPENAI = "https://api.openai.com/v1"
AGAIN = (408, 409, 429)
LONGEST, MOST_PATIENT = 60.0, 600.0  # seconds between two tries: of our own accord, and when asked to wait
GIVE_UP = 5
FRAME = 8  # tokens that a message takes beyond its text


@dataclass(frozen=True)
class Price:
    """What a million tokens cost, read and written, in any currency, and what may be spent; None when unknown."""

    reading: float | None = None
    writing: float | None = None
    most: float | None = None

    def of(self, tokens_in: int, tokens_out: int) -> float | None:
        """What these tokens cost."""
        if self.reading is None or self.writing is None:
            return None
        return (tokens_in * self.reading + tokens_out * self.writing) / 1e6


class Endpoint:
    """The model `judge` at `where`, an address that ends in /v1; `key` is sent to it and written nowhere.

    `settings` are sent with every request. `timeout` is in seconds, `tries` counts all tries of one request.
    Raises `UserError` when the address cannot be used or the client is not installed.
    """

    def __init__(self, judge: str, where: str, key: str | None, settings: Mapping[str, Any], *, concurrency: int = 4,
                 timeout: float = 600.0, tries: int = 8, price: Price | None = None) -> None:
        parts = urlsplit(where)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"--base-url must be an address such as {OPENAI}.")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UserError("--base-url must hold no key and no password, for it is written beside the verdicts; "
                            "put the key into a variable and name it with --key-variable.")
        try:
            import openai
        except ImportError:
            raise UserError("Judging through an endpoint needs the package openai: pip install 'openai>=2'.") from None
        self.judge, self.where, self.settings = judge, where.rstrip("/"), dict(settings)
        self.concurrency, self.tries, self.price = concurrency, tries, price or Price()
        self.errors, self._key, self._stop = openai, key, Event()
        self._client: Any = openai.OpenAI(base_url=self.where, api_key=key or "none", timeout=timeout, max_retries=0)
        self.pause: Callable[[float], object] = self._stop.wait

    def answer(self, asked: Sequence[list[Message]], save: Save) -> str | None:
        """Ask everything and hand each reply to `save` with its number; returns why it ended early, if it did.

        When interrupted it waits for what was sent, saves it, and raises on. Raises `UserError` when the endpoint
        refuses the key or the model.
        """
        waiting, flying = list(enumerate(asked))[::-1], dict[Future[Reply], tuple[int, float]]()
        spent, row, reason = 0.0, 0, ""
        self._stop.clear()
        pool = ThreadPoolExecutor(self.concurrency)
        try:
            while flying or (waiting and not reason):
                while waiting and not reason and len(flying) < self.concurrency:
                    most = self._most(waiting[-1][1])
                    if self.price.most is not None and spent + most + sum(m for _, m in flying.values()) > \
                            self.price.most:
                        if not flying:
                            reason = f"--max-price {self.price.most:g} allows no further request"
                        break
                    number, messages = waiting.pop()
                    flying[pool.submit(self.ask, messages)] = number, most
                for future in wait(flying, return_when=FIRST_COMPLETED).done if flying else ():
                    number, most = flying.pop(future)
                    reply = future.result()
                    save(number, reply)
                    spent += self._cost(reply, most)
                    row = row + 1 if reply.error else 0
                    if row >= GIVE_UP:
                        reason = f"{GIVE_UP} requests in a row failed, the last with: {reply.error}"
        finally:
            self._stop.set()  # nobody waits for another try; what was sent is waited for, because it is paid for
            pool.shutdown(wait=True, cancel_futures=True)
            for future, (number, _) in flying.items():
                if not (future.cancelled() or future.exception() or future.result().error):
                    save(number, future.result())
        return reason or None

    def ask(self, messages: list[Message]) -> Reply:
        """One verdict, or the error of the last try."""
        error = ""
        for number in range(1, self.tries + 1):
            least = None
            try:
                return self._read(self._client.chat.completions.create(
                    model=self.judge, messages=messages, **_sent(self.settings)), number)
            except self.errors.APIStatusError as problem:
                error, least = f"{problem.status_code}: {self._said(problem)}", _wanted(problem.response.headers)
                if problem.status_code in (401, 403, 404):
                    raise UserError(f"{self.where} refuses to judge with '{self.judge}' ({error}); check --judge, "
                                    "--base-url and the key.") from None
                if problem.status_code not in AGAIN and problem.status_code < 500:
                    return Reply(error=error, tries=number)
            except self.errors.APIConnectionError as problem:
                error = self._said(problem)
            except (self.errors.OpenAIError, ValueError, TypeError, AttributeError, LookupError) as problem:
                error = f"an answer that cannot be read ({self._said(problem)})"
            if self._stop.is_set() or number == self.tries or (least or 0) > MOST_PATIENT:
                break
            self.pause(max(least or 0.0, min(LONGEST, 2.0 ** (number - 1)) * random.uniform(0.5, 1)))
        return Reply(error=error, tries=number)

    def _read(self, found: Any, tries: int) -> Reply:
        """The text and the counted tokens of an answer; raises when it has none."""
        choice = found.choices[0]
        text = choice.message.content
        if not isinstance(text, str):
            raise ValueError("no text")
        usage = getattr(found, "usage", None)
        counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
        read, written = (max(0, one) if isinstance(one, int) else 0 for one in counts)
        return Reply(self._clean(text), tries=tries, tokens_in=read, tokens_out=written)

    def _most(self, messages: list[Message]) -> float:
        """What a request can cost: no token has less than a byte."""
        size = sum(len(one["content"].encode()) + FRAME for one in messages)
        return self.price.of(size, longest(self.settings)) or 0.0

    def _cost(self, reply: Reply, most: float) -> float:
        """What a reply cost: by its counts, else as much as it can have cost."""
        return (self.price.of(reply.tokens_in, reply.tokens_out) or 0.0) if reply.tokens_in else most

    def _said(self, problem: Exception) -> str:
        body = getattr(problem, "body", None)
        said = body.get("message") if isinstance(body, dict) else None
        text = " ".join(str(said or problem).split()) or type(problem).__name__
        return self._clean(text)[:300].rstrip(".")

    def _clean(self, text: str) -> str:
        """Text without the key, which some servers send back."""
        return text.replace(self._key, "[key]") if self._key else text


def tokens(messages: Sequence[Message]) -> int:
    """About how many tokens messages have: a quarter of their bytes, and a few for each."""
    return sum(len(one["content"].encode()) // 4 for one in messages) + FRAME * len(messages)


def longest(settings: Mapping[str, Any]) -> int:
    """The most tokens that a verdict may have."""
    return max(int(settings.get(name) or 0) for name in ("max_tokens", "max_completion_tokens"))


def _sent(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"extra_body": {name: value for name, value in settings.items() if value is not None}}


def _wanted(headers: Mapping[str, str]) -> float | None:
    """The seconds that an endpoint asks to wait (Retry-After, RFC 9110 §10.2.3), None when it asks for nothing."""
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        date = email.utils.parsedate_tz(text)
        seconds = email.utils.mktime_tz(date) - time.time() if date else -1.0
        return max(0.0, seconds) if date else None
    return seconds if 0 <= seconds < float("inf") else None
