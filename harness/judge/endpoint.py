"""A judge behind an OpenAI-compatible endpoint: asked side by side, and never for too much.

A request that got no answer, after all tries of the connection, is a failure of that verdict; five of them in a row end
the judging.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any

from harness.backends.openai_connection import REFUSED, Connection, Failed
from harness.errors import UserError
from harness.judge.reply import Reply, Save
from harness.plugins.task import Message

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
        self.connection = Connection(where, key, timeout=timeout, tries=tries)
        self.judge, self.where, self.settings = judge, self.connection.where, dict(settings)
        self.concurrency, self.price = concurrency, price or Price()

    def answer(self, asked: Sequence[list[Message]], save: Save) -> str | None:
        """Ask everything and hand each reply to `save` with its number; returns why it ended early, if it did.

        When interrupted it waits for what was sent, saves it, and raises on. Raises `UserError` when the endpoint
        refuses the key or the model.
        """
        waiting, flying = list(enumerate(asked))[::-1], dict[Future[Reply], tuple[int, float]]()
        spent, row, reason = 0.0, 0, ""
        self.connection.stopped.clear()
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
            self.connection.stopped.set()  # nobody tries again; what was sent is waited for, because it is paid for
            pool.shutdown(wait=True, cancel_futures=True)
            for future, (number, _) in flying.items():
                if not (future.cancelled() or future.exception() or future.result().error):
                    save(number, future.result())
        return reason or None

    def ask(self, messages: list[Message]) -> Reply:
        """One verdict, or the error of the last try."""
        def request() -> Reply:
            return self._read(self.connection.client.chat.completions.create(
                model=self.judge, messages=messages, **_sent(self.settings)))
        try:
            reply, tries = self.connection.ask(request)
        except Failed as failed:
            if failed.status in REFUSED:
                raise UserError(f"{self.where} refuses to judge with '{self.judge}' ({failed}); check --judge, "
                                "--base-url and the key.") from None
            return Reply(error=str(failed), tries=failed.tries)
        return replace(reply, tries=tries)

    def _read(self, found: Any) -> Reply:
        """The text and the counted tokens of an answer; raises when it has none."""
        choice = found.choices[0]
        text = choice.message.content
        if not isinstance(text, str):
            raise ValueError("no text")
        usage = getattr(found, "usage", None)
        counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
        read, written = (max(0, one) if isinstance(one, int) else 0 for one in counts)
        return Reply(self.connection.clean(text), tokens_in=read, tokens_out=written)

    def _most(self, messages: list[Message]) -> float:
        """What a request can cost: no token has less than a byte."""
        size = sum(len(one["content"].encode()) + FRAME for one in messages)
        return self.price.of(size, longest(self.settings)) or 0.0

    def _cost(self, reply: Reply, most: float) -> float:
        """What a reply cost: by its counts, else as much as it can have cost."""
        return (self.price.of(reply.tokens_in, reply.tokens_out) or 0.0) if reply.tokens_in else most


def tokens(messages: Sequence[Message]) -> int:
    """About how many tokens messages have: a quarter of their bytes, and a few for each."""
    return sum(len(one["content"].encode()) // 4 for one in messages) + FRAME * len(messages)


def longest(settings: Mapping[str, Any]) -> int:
    """The most tokens that a verdict may have."""
    return max(int(settings.get(name) or 0) for name in ("max_tokens", "max_completion_tokens"))


def _sent(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"extra_body": {name: value for name, value in settings.items() if value is not None}}
