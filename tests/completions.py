"""A local server of OpenAI's completions with scripted answers and failures, which records its requests.

It answers a prompt with the chunks of token ids that `say` returns, as vLLM does: as text, with token ids if requested
and allowed, and with usage at the end.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.models import EOS
from tests.pair import tokenizer

Body = Mapping[str, Any]
Wrong = Callable[[Body, int], str]  # a request and the number of its try (from 0) → the failure
STATUS = {"429": 429, "429 soon": 429, "500": 500, "503": 503, "400": 400, "401": 401, "404": 404}


def right(body: Body, number: int) -> str:
    """Return no failure."""
    return ""


def counting(body: Body) -> list[list[int]]:
    """Return tokens counting up from the prompt's last one, in chunks of 1, 2, 1, 2, … tokens."""
    first = int(body["prompt"][-1]) if isinstance(body["prompt"], list) else 7
    ids, chunks = [5 + (first + i) % 40 for i in range(body["max_tokens"])], list[list[int]]()
    while ids:
        size = 1 + len(chunks) % 2
        chunks, ids = [*chunks, ids[:size]], ids[size:]
    return chunks


@dataclass
class Script:
    """The server's behaviour: `say` returns the chunks, `wrong` the failure, `owner` is its reported kind.

    `ids` is whether it returns token ids, `reads_ids` whether prompts may be ids, `fields` are the supported fields
    (None: all), `usage` is whether it counts. `counters` is the page of its counters, `late` seconds between chunks.
    `tops` returns the log-probs of the likeliest tokens at each place of an answer, None if it has none; `as_chat` is
    whether they come as llama.cpp's do. `extra` are more fields of the last choice.
    """

    say: Callable[[Body], list[list[int]]] = counting
    wrong: Wrong = right
    owner: str = "vllm"
    model: Mapping[str, Any] = field(default_factory=lambda: {"id": "toy", "max_model_len": 128})
    ids: bool = True
    reads_ids: bool = True
    fields: frozenset[str] | None = None
    usage: bool = True
    counters: Callable[["Server"], str] | None = None
    metrics: Callable[[Body], Mapping[str, Any] | None] = lambda body: None
    late: float = 0.0
    tokenizer: Any = None
    tops: Callable[[Body, Sequence[int]], list[dict[int, float]]] | None = None
    as_chat: bool = False
    extra: Callable[[Body], Mapping[str, Any]] = lambda body: {}


class Server(ThreadingHTTPServer):
    """`seen` counts tries by prompt and seed, `bodies` and `headers` record requests, `times` their arrival."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.lock = script, threading.Lock()
        self.tokenizer = script.tokenizer or tokenizer()
        self.seen, self.bodies, self.headers = Counter[str](), list[dict[str, Any]](), list[dict[str, str]]()
        self.times, self.busy, self.busiest, self.open = list[float](), 0, 0, set[Any]()

    @property
    def url(self) -> str:
        """Return the address for --base-url."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect."""

    def kill(self) -> None:
        """Close all connections at once, also during an answer."""
        threading.Thread(target=self.shutdown).start()
        self.socket.close()
        for connection in list(self.open):
            connection.shutdown(2)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.open.add(self.connection)

    def finish(self) -> None:
        self.server.open.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        script = self.server.script
        if script.wrong({}, 0) in STATUS:
            return self._send(STATUS[script.wrong({}, 0)], '{"error": {"message": "no"}}')
        if script.wrong({}, 0) == "page":
            return self._send(200, "<html>Sign in</html>", "text/html")
        pages = {"/v1/models": json.dumps({"object": "list", "data": [
            {"object": "model", "owned_by": script.owner, **script.model}]}), "/version": '{"version": "0.32.0"}'}
        if script.counters:
            pages["/metrics"] = script.counters(self.server)
        self._send(200 if self.path in pages else 404, pages.get(self.path, "{}"))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        key = json.dumps([body["prompt"], body.get("seed"), body.get("temperature")])
        with self.server.lock:
            number = self.server.seen[key]
            self.server.seen[key] += 1
            self.server.times.append(time.perf_counter())
            self.server.bodies.append(body)
            self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
            self.server.busy += 1
            self.server.busiest = max(self.server.busy, self.server.busiest)
        try:
            self._answer(body, self.server.script.wrong(body, number))
        finally:
            with self.server.lock:
                self.server.busy -= 1

    def _answer(self, body: Body, wrong: str) -> None:
        script = self.server.script
        unknown = [] if script.fields is None else sorted(set(body) - script.fields)
        if unknown or (isinstance(body["prompt"], list) and not script.reads_ids):
            return self._error(400, f"unknown field {unknown}" if unknown else "prompt must be a string")
        if wrong == "kill":
            return self.server.kill()
        if wrong == "slow":
            time.sleep(1.5)
        if wrong == "dropped":
            self.close_connection = True
            self.connection.shutdown(2)
        elif wrong in STATUS:
            message = f"no, not with {self.headers.get('authorization')}"
            self._error(STATUS[wrong], message, {"retry-after": "0.01"} if wrong == "429 soon" else {})
        elif wrong == "page":
            self._send(200, "<html>Sign in</html>", "text/html")
        elif not body.get("stream"):
            self._send(200, json.dumps(self._whole(body), indent=1))
        else:
            self._stream(body, wrong)

    def _whole(self, body: Body) -> dict[str, Any]:
        """Answer a beam search: beam i has all tokens higher by i."""
        chunks = [token for chunk in self.server.script.say(body) for token in chunk]
        choices = [self._choice(body, [token + i for token in chunks], "length", i) for i in range(body["n"])]
        return {"choices": choices, "usage": self._usage(body, len(chunks) * body["n"])}

    def _stream(self, body: Body, wrong: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        chunks, sent = self.server.script.say(body), 0
        whole = [token for chunk in chunks for token in chunk]
        for index, chunk in enumerate(chunks):
            if wrong == "cut" and index == 2:
                return
            if wrong == "error" and index == 2:
                return self._event({"error": {"message": "the engine has died", "code": 500}})
            time.sleep(self.server.script.late)
            sent += len(chunk)
            reason = None if index + 1 < len(chunks) else "length" if sent >= body["max_tokens"] else "stop"
            choice = self._choice(body, chunk, reason, 0) | self._logprobs(body, whole[:sent], len(chunk))
            self._event({"choices": [choice | (dict(self.server.script.extra(body)) if reason else {})]})
        if self.server.script.usage and body.get("stream_options", {}).get("include_usage"):
            more = self.server.script.metrics(body)
            counted = self._usage(body, sent + (5 if wrong == "miscounted" else 0))
            self._event({"choices": [], "usage": counted, **({"metrics": more} if more else {})})
        self.wfile.write(b"data: [DONE]\n\n")

    def _choice(self, body: Body, ids: Sequence[int], reason: str | None, index: int) -> dict[str, Any]:
        text = self.server.tokenizer.decode([token for token in ids if token != EOS])
        extra = {"token_ids": list(ids)} if self.server.script.ids and body.get("return_token_ids") else {}
        return {"index": index, "text": text, "finish_reason": reason, "stop_reason": None, **extra}

    def _logprobs(self, body: Body, ids: Sequence[int], new: int) -> dict[str, Any]:
        """Return the log-probs of the last `new` ids, if they are wanted and the server has them."""
        script = self.server.script
        if script.tops is None or not body.get("logprobs"):
            return {"logprobs": None}
        by_id = body.get("return_tokens_as_token_ids")
        tops, tokens = script.tops(body, ids)[len(ids) - new:], ids[len(ids) - new:]

        def name(token: int) -> str:
            return f"token_id:{token}" if by_id else str(self.server.tokenizer.decode([token]))
        best = [dict(sorted(top.items(), key=lambda pair: -pair[1])[:body["logprobs"]]) for top in tops]
        if script.as_chat:
            return {"logprobs": {"content": [
                {"id": token, "token": "?", "logprob": top[token], "top_logprobs": [
                    {"id": other, "token": "?", "logprob": value} for other, value in few.items()]}
                for token, top, few in zip(tokens, tops, best, strict=True)]}}
        return {"logprobs": {
            "tokens": [name(token) for token in tokens], "text_offset": [0] * new,
            "token_logprobs": [top[token] for token, top in zip(tokens, tops, strict=True)],
            "top_logprobs": [{name(token): value for token, value in few.items()} for few in best]}}

    def _usage(self, body: Body, written: int) -> dict[str, int]:
        prompt = body["prompt"]
        count = len(prompt) if isinstance(prompt, list) else len(self.server.tokenizer(prompt)["input_ids"])
        return {"prompt_tokens": count, "completion_tokens": written, "total_tokens": count + written}

    def _event(self, value: Mapping[str, Any]) -> None:
        self.wfile.write(f": a comment\ndata: {json.dumps(value, ensure_ascii=False)}\n\n".encode())
        self.wfile.flush()

    def _error(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, json.dumps({"error": {"message": message}}), headers=headers or {})

    def _send(self, status: int, text: str, kind: str = "application/json",
              headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(text.encode())), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(**script: Any) -> Iterator[Server]:
    """Run a server."""
    server = Server(Script(**script))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
