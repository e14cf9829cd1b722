"""A judge behind an OpenAI-compatible endpoint, with concurrent requests and a limit on the total price.

A verdict fails if every try of its request does; five failures in a row end the judging.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any

from harness.backends.openai_connection import REFUSED, Connection, Failed
from harness.errors import UserError
from harness.judge.reply import Reply, Save
from harness.plugins.task import Message

GIVE_UP = 5  # failed requests in a row
OVERHEAD = 8  # tokens of a message besides its text


@dataclass(frozen=True)
class Price:
    """Prices of a million prompt tokens and output tokens, None if unknown, and the limit on the total, if any."""

    prompt: float | None = None
    output: float | None = None
    limit: float | None = None

    def of(self, tokens_in: int, tokens_out: int) -> float | None:
        """Return the price of these tokens, None if prices are unknown."""
        if self.prompt is None or self.output is None:
            return None
        return (tokens_in * self.prompt + tokens_out * self.output) / 1e6


class Endpoint:
    """The model `judge` at `where`, a URL ending in /v1; `key` is sent to it and never written to disk.

    `settings` are sent with every request. `timeout` is in seconds, `tries` is the maximum per request. Raises
    `UserError` if the URL is invalid or the client is not installed.
    """

    def __init__(self, judge: str, where: str, key: str | None, settings: Mapping[str, Any], *, concurrency: int = 4,
                 timeout: float = 600.0, tries: int = 8, price: Price | None = None) -> None:
        self.connection = Connection(where, key, timeout=timeout, tries=tries)
        self.judge, self.where, self.settings = judge, self.connection.where, dict(settings)
        self.concurrency, self.price = concurrency, price or Price()

    def answer(self, prompts: Sequence[list[Message]], save: Save) -> str | None:
        """Send all prompts and pass each reply to `save` with its index; returns why it stopped early, or None.

        On an interrupt it waits for requests in flight, saves their replies and re-raises. Raises `UserError` if the
        endpoint refuses the key or the model.
        """
        waiting, in_flight = list(enumerate(prompts))[::-1], dict[Future[Reply], tuple[int, float]]()
        spent, failures, reason = 0.0, 0, ""
        self.connection.stopped.clear()
        pool = ThreadPoolExecutor(self.concurrency)
        try:
            while in_flight or (waiting and not reason):
                while waiting and not reason and len(in_flight) < self.concurrency:
                    price = self._max_price(waiting[-1][1])
                    if self.price.limit is not None and \
                            spent + price + sum(p for _, p in in_flight.values()) > self.price.limit:
                        if not in_flight:
                            reason = f"--max-price {self.price.limit:g} allows no further request"
                        break
                    number, messages = waiting.pop()
                    in_flight[pool.submit(self.ask, messages)] = number, price
                for future in wait(in_flight, return_when=FIRST_COMPLETED).done if in_flight else ():
                    number, price = in_flight.pop(future)
                    reply = future.result()
                    save(number, reply)
                    spent += self._price(reply, price)
                    failures = failures + 1 if reply.error else 0
                    if failures >= GIVE_UP:
                        reason = f"{GIVE_UP} requests in a row failed, the last with: {reply.error}"
        finally:
            self.connection.stopped.set()  # no retries; requests in flight are awaited because they are paid for
            pool.shutdown(wait=True, cancel_futures=True)
            for future, (number, _) in in_flight.items():
                if not (future.cancelled() or future.exception() or future.result().error):
                    save(number, future.result())
        return reason or None

    def ask(self, messages: list[Message]) -> Reply:
        """Request one verdict; returns the reply, or the error of the last try."""
        def request() -> Reply:
            return self._reply(self.connection.client.chat.completions.create(
                model=self.judge, messages=messages, **_sent(self.settings)))
        try:
            reply, tries = self.connection.ask(request)
        except Failed as failed:
            if failed.status in REFUSED:
                raise UserError(f"{self.where} refuses to judge with '{self.judge}' ({failed}); check --judge, "
                                "--base-url and the key.") from None
            return Reply(error=str(failed), tries=failed.tries)
        return replace(reply, tries=tries)

    def _reply(self, response: Any) -> Reply:
        """Return the text and token counts of a response; raises ValueError if it has no text."""
        choice = response.choices[0]
        text = choice.message.content
        if not isinstance(text, str):
            raise ValueError("no text")
        usage = getattr(response, "usage", None)
        counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
        tokens_in, tokens_out = (max(0, count) if isinstance(count, int) else 0 for count in counts)
        return Reply(self.connection.clean(text), tokens_in=tokens_in, tokens_out=tokens_out)

    def _max_price(self, messages: list[Message]) -> float:
        """Return the maximum price of a request, assuming one token per byte."""
        size = sum(len(one["content"].encode()) + OVERHEAD for one in messages)
        return self.price.of(size, max_verdict_tokens(self.settings)) or 0.0

    def _price(self, reply: Reply, default: float) -> float:
        """Return the price of a reply by its token counts, or `default` if it has none."""
        return (self.price.of(reply.tokens_in, reply.tokens_out) or 0.0) if reply.tokens_in else default


def estimate_tokens(messages: Sequence[Message]) -> int:
    """Estimate the tokens of messages: a quarter of their bytes, plus a few per message."""
    return sum(len(one["content"].encode()) // 4 for one in messages) + OVERHEAD * len(messages)


def max_verdict_tokens(settings: Mapping[str, Any]) -> int:
    """Return the maximum number of tokens of a verdict."""
    return max(int(settings.get(name) or 0) for name in ("max_tokens", "max_completion_tokens"))


def _sent(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"extra_body": {name: value for name, value in settings.items() if value is not None}}
