"""A connection to an OpenAI-compatible server: its address, its key, and asking again where that can help.

What a server does wrong is retried where trying again can help (no connection, no answer in time, 408, 409, 429, 5xx,
an answer that cannot be read) after 1, 2, 4, … seconds up to 60, each shortened by up to a half at random, but no
sooner than it asks for.
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
CONNECT = 10.0  # seconds until somebody must have taken the call
LONGEST, MOST_PATIENT = 60.0, 600.0  # seconds between two tries: of our own accord, and when asked to wait

T = TypeVar("T")


class Failed(Exception):
    """A request that got no answer in `tries` tries; the message is the last error, `status` its HTTP status or None.

    `lost` says that no connection could be made, or that it broke: perhaps nobody is there any more.
    """

    def __init__(self, message: str, tries: int, status: int | None = None, lost: bool = False) -> None:
        super().__init__(message)
        self.tries, self.status, self.lost = tries, status, lost


class Connection:
    """The server at `where`, an address that ends in /v1; `key` is sent to it and written nowhere.

    `timeout` is in seconds, of each wait for something to come; `tries` counts all tries of one request. Raises
    `UserError` when the address cannot be used or the client is not installed.
    """

    def __init__(self, where: str, key: str | None, *, timeout: float = 600.0, tries: int = 8) -> None:
        parts = urlsplit(where)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"--base-url must be an address such as {OPENAI}, not '{where}'.")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UserError("--base-url must hold no key and no password, for it is written beside the results; "
                            "put the key into a variable and name it with --key-variable.")
        try:
            import openai
        except ImportError:
            raise UserError("Asking a server needs the package openai: pip install 'openai>=2'.") from None
        self.where, self.tries, self.errors, self._key = where.rstrip("/"), tries, openai, key
        self.stopped = Event()
        self.pause: Callable[[float], object] = self.stopped.wait
        self.client: Any = openai.OpenAI(base_url=self.where, api_key=key or "none", max_retries=0,
                                         timeout=openai.Timeout(timeout, connect=min(timeout, CONNECT)))

    def ask(self, request: Callable[[], T], tries: int | None = None) -> tuple[T, int]:
        """What `request` returns, and in which try; raises `Failed` with the error of the last one."""
        tries = tries or self.tries
        for number in range(1, tries + 1):
            least = None
            try:
                return request(), number
            except self.errors.APIStatusError as problem:
                status, least = problem.status_code, _wanted(problem.response.headers)
                failed = Failed(f"{status}: {self._said(problem)}", number, status)
                if status not in AGAIN and status < 500:
                    raise failed from None
            except self.errors.APIConnectionError as problem:
                failed = Failed(self._said(problem), number, lost=True)
            except (self.errors.OpenAIError, ValueError, TypeError, AttributeError, LookupError) as problem:
                failed = Failed(f"an answer that cannot be read ({self._said(problem)})", number)
            except Exception as problem:  # the transport's own errors, which end a stream that was being read
                failed = Failed(self._said(problem), number, lost=True)
            if self.stopped.is_set() or number == tries or (least or 0) > MOST_PATIENT:
                break
            self.pause(max(least or 0.0, min(LONGEST, 2.0 ** (number - 1)) * random.uniform(0.5, 1)))
        raise failed

    def get(self, address: str) -> str:
        """The page at `address`, asked for once; raises `Failed`."""
        return self.ask(lambda: str(self.client.get(address, cast_to=str)), 1)[0]

    def clean(self, text: str) -> str:
        """Text without the key, which some servers send back."""
        return text.replace(self._key, "[key]") if self._key else text

    def _said(self, problem: Exception) -> str:
        body = getattr(problem, "body", None)
        said = body.get("message") if isinstance(body, dict) else None
        text = " ".join(str(said or problem).split()) or type(problem).__name__
        return self.clean(text)[:300].rstrip(".")


def key_for(where: str, variable: str | None) -> str | None:
    """The key in the environment variable; OpenAI's own is nobody else's business. Raises `UserError` without it."""
    variable = variable or (KEY if where.rstrip("/") == OPENAI else None)
    key = os.environ.get(variable, "").strip() if variable else ""
    if variable and not key:
        raise UserError(f"The variable {variable} holds no key; set it, "
                        "or name a server that wants none with --base-url.")
    return key or None


def _wanted(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks to wait (Retry-After, RFC 9110 §10.2.3), None when it asks for nothing."""
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        date = email.utils.parsedate_tz(text)
        seconds = email.utils.mktime_tz(date) - time.time() if date else -1.0
        return max(0.0, seconds) if date else None
    return seconds if 0 <= seconds < float("inf") else None
