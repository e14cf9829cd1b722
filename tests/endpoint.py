"""A local OpenAI-compatible chat server with scripted failures, which records its requests."""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Wrong = Callable[[str, int], str]  # the prompt and the number of its try (from 0) → the failure
ERRORS = {"429": 429, "429 soon": 429, "429 dated": 429, "429 in an hour": 429, "500": 500, "503": 503, "400": 400,
          "401": 401, "404": 404}


def right(prompt: str, number: int) -> str:
    """Return no failure."""
    return ""


def judged(prompt: str) -> str:
    """Return a verdict with the number in the last answer of the prompt: answers of tests are written `{7}`."""
    return f"A good answer. Rating: [[{re.findall(r'{(.*?)}', prompt)[-1]}]]"


def better(prompt: str) -> str:
    """Return a verdict for the answer with the larger of two numbers, the last one of each assistant."""
    ratings = [int(number) for number in re.findall(r"{(\d+)}", prompt)]
    first, second = ratings[len(ratings) // 2 - 1], ratings[-1]
    return f"[[{'A' if first > second else 'B' if second > first else 'C'}]]"


class Server(ThreadingHTTPServer):
    """`wrong` returns the failure of a request; `seen` counts prompts, `bodies` and `headers` record requests."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, wrong: Wrong = right, say: Callable[[str], str] = judged) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.wrong, self.say = wrong, say
        self.seen, self.bodies, self.headers = Counter[str](), list[dict[str, Any]](), list[dict[str, str]]()
        self.busy = self.busiest = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """Return the address for --base-url."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt = "\n".join(message["content"] for message in body["messages"])
        with self.server.lock:
            number = self.server.seen[prompt]
            self.server.seen[prompt] += 1
            self.server.bodies.append(body)
            self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
            self.server.busy += 1
            self.server.busiest = max(self.server.busy, self.server.busiest)
        try:
            self._answer(self.server.wrong(prompt, number), prompt)
        finally:
            with self.server.lock:
                self.server.busy -= 1

    def _answer(self, wrong: str, prompt: str) -> None:
        if wrong in ("slow", "wait"):
            time.sleep(1.5 if wrong == "slow" else 0.05)
        if wrong == "dropped":
            self.connection.close()
            self.close_connection = True
        elif wrong in ERRORS:
            waits = {"429 soon": "0.01", "429 in an hour": "3600", "429 dated": "Wed, 21 Oct 2015 07:28:00 GMT"}
            message = f"no, not with {self.headers.get('authorization')}"
            self._send(ERRORS[wrong], json.dumps({"error": {"message": message}}), waits.get(wrong))
        elif wrong == "broken":
            self._send(200, '{"choices": [{"mess')
        elif wrong == "page":
            self._send(200, "<html>Sign in</html>", kind="text/html")
        elif wrong == "list":
            self._send(200, "[]")
        else:
            reply = {"silent": None, "unparsed": "I would rather not say.",
                     "key": f"Rating: [[7]] {self.headers.get('authorization')}"}.get(wrong, self.server.say(prompt))
            choices = [] if wrong == "empty" else [
                {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": reply}}]
            self._send(200, json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m",
                                        "choices": choices, "usage": {"prompt_tokens": 100, "completion_tokens": 10,
                                                                      "total_tokens": 110}}))

    def _send(self, status: int, text: str, retry_after: str | None = None, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text.encode())))
        if retry_after:
            self.send_header("retry-after", retry_after)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(wrong: Wrong = right, say: Callable[[str], str] = judged) -> Iterator[Server]:
    """Run a server."""
    server = Server(wrong, say)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
