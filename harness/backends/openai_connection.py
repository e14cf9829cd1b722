"""A connection to an OpenAI-compatible server: its address, its key, and retries of failed requests.

A request is retried after errors that may be temporary (no connection, no answer in time, 408, 409, 429, 5xx, an answer
that cannot be parsed), after 1, 2, 4, … seconds up to 60, each shortened by up to a half at random, but not before the
time in the server's Retry-After.
"""

import email.utils
import os
import random
import time
from collections.abc import Callable, Mapping
from threading import Event
from typing import Any, TypeVar
from urllib.parse import urlsplit

from harness.errors import UserError

OPENAI = "https://api.openai.com/v1"
KEY = "OPENAI_API_KEY"
AGAIN = (408, 409, 429)
REFUSED = (401, 403, 404)
CONNECT = 10.0  # seconds to establish a connection
LONGEST, MOST_PATIENT = 60.0, 600.0  # maximum seconds between two tries: by default, and on the server's request

T = TypeVar("T")


class Failed(Exception):
    """A request that failed `tries` times; the message is the last error, `status` its HTTP status or None.

    `lost` means that the connection failed or broke, so the server may be gone.
    """

    def __init__(self, message: str, tries: int, status: int | None = None, lost: bool = False) -> None:
        super().__init__(message)
        self.tries, self.status, self.lost = tries, status, lost


class Connection:
    """The server at `where`, an address that ends in /v1; `key` is sent to it and never stored.

    `timeout` is the maximum wait for data in seconds; `tries` is the maximum number of tries of one request. Raises
    `UserError` when the address is invalid or the client is not installed.
    """

    def __init__(self, where: str, key: str | None, *, timeout: float = 600.0, tries: int = 8) -> None:
        parts = urlsplit(where)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"--base-url must be an address such as {OPENAI}, not '{where}'.")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UserError("--base-url must hold no key and no password, because it is stored with the results; "
                            "put the key into a variable and name it with --key-variable.")
        try:
            import openai
        except ImportError:
            raise UserError("A server backend needs the package openai: pip install 'openai>=2'.") from None
        self.where, self.tries, self.errors, self._key = where.rstrip("/"), tries, openai, key
        self.stopped = Event()
        self.pause: Callable[[float], object] = self.stopped.wait
        self.client: Any = openai.OpenAI(base_url=self.where, api_key=key or "none", max_retries=0,
                                         timeout=openai.Timeout(timeout, connect=min(timeout, CONNECT)))

    def ask(self, request: Callable[[], T], tries: int | None = None) -> tuple[T, int]:
        """Return the result of `request` and the number of tries; raises `Failed` with the last error."""
        tries = tries or self.tries
        for number in range(1, tries + 1):
            least = None
            try:
                return request(), number
            except self.errors.APIStatusError as problem:
                status, least = problem.status_code, _retry_after(problem.response.headers)
                failed = Failed(f"{status}: {self._message(problem)}", number, status)
                if status not in AGAIN and status < 500:
                    raise failed from None
            except self.errors.APIConnectionError as problem:
                failed = Failed(self._message(problem), number, lost=True)
            except (self.errors.OpenAIError, ValueError, TypeError, AttributeError, LookupError) as problem:
                failed = Failed(f"an answer that cannot be read ({self._message(problem)})", number)
            except Exception as problem:  # errors of the transport, which end a stream
                failed = Failed(self._message(problem), number, lost=True)
            if self.stopped.is_set() or number == tries or (least or 0) > MOST_PATIENT:
                break
            self.pause(max(least or 0.0, min(LONGEST, 2.0 ** (number - 1)) * random.uniform(0.5, 1)))
        raise failed

    def get(self, address: str) -> str:
        """Return the page at `address`, without retries; raises `Failed`."""
        return self.ask(lambda: str(self.client.get(address, cast_to=str)), 1)[0]

    def clean(self, text: str) -> str:
        """Return the text without the key, which some servers send back."""
        return text.replace(self._key, "[key]") if self._key else text

    def _message(self, problem: Exception) -> str:
        body = getattr(problem, "body", None)
        message = body.get("message") if isinstance(body, dict) else None
        text = " ".join(str(message or problem).split()) or type(problem).__name__
        return self.clean(text)[:300].rstrip(".")


def key_for(where: str, variable: str | None) -> str | None:
    """Return the key in the environment variable, by default only for OpenAI; raises `UserError` if it is not set."""
    variable = variable or (KEY if where.rstrip("/") == OPENAI else None)
    key = os.environ.get(variable, "").strip() if variable else ""
    if variable and not key:
        raise UserError(f"The variable {variable} holds no key; set it, "
                        "or name a server that needs none with --base-url.")
    return key or None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds in the header Retry-After (RFC 9110 §10.2.3), or None without it."""
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        date = email.utils.parsedate_tz(text)
        seconds = email.utils.mktime_tz(date) - time.time() if date else -1.0
        return max(0.0, seconds) if date else None
    return seconds if 0 <= seconds < float("inf") else None
