"""A backend for servers with OpenAI's completions API: vLLM, SGLang, llama.cpp or another, at --base-url.

Prompts are sent as token ids, the same as for the reference. Answers are streamed: each chunk is a burst of tokens with
its arrival time. Tokens are counted by their ids if the server returns them, else by its usage, never by chunks.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import accumulate, product
from typing import Any

from harness import nano
from harness.backends.backend import BackendLost, Generated
from harness.backends.external import ExternalBackend, GenerationRequest
from harness.backends.openai_connection import REFUSED, Connection, Failed, key_for
from harness.backends.openai_fields import NEUTRAL, Fields, fields
from harness.backends.openai_server import Server, inspect_server, read_counters
from harness.backends.openai_stream import Reply, read
from harness.engine.random_stream import PhiloxStream
from harness.errors import Unsupported, UserError, suggestion
from harness.models.loading import Model
from harness.models.prompts import WARM_UP, encode
from harness.plugins.strategy import Strategy
from harness.store.config import RunConfig

TRIES = 6
GIVE_UP = 5  # failures in a row after which the server counts as lost
UNSUPPORTED = (400, 415, 422, 501)  # statuses of requests with a field or prompt that the server does not support
BURSTS = "Steps are the chunks of the server's stream, not forwards of its model: τ is tokens a chunk."
EVEN = ("The server tells no token ids: tokens are counted by its usage and spread evenly over the chunks of an "
        "answer, and where answers part is not known.")
DRAFTS = ("The server drafts by itself, whatever the strategy: the counters in the records are its own. On a CPU "
          "vLLM 0.32 samples wrongly while it drafts.")


def connect(config: RunConfig, target: Model, draft: Model | None) -> "Served":
    """Connect to the server at --base-url; raises `UserError` if it does not answer or does not serve the model."""
    return Served(*reached(config), config, target)


def reached(config: RunConfig) -> tuple[Connection, Server]:
    """Return a connection to the server at --base-url, and what it tells about itself; raises `UserError`."""
    if not config.base_url:
        raise UserError("--backend openai needs the address of a server: --base-url http://localhost:8000/v1.")
    connection = Connection(config.base_url, key_for(config.base_url, config.key_variable), **_settings(config.engine))
    folder = str(nano.weights(config.model)) if config.model in nano.NAMES else config.model
    return connection, inspect_server(connection, config.model, folder)


class Served(ExternalBackend):
    """Sends the requests of a cell to the server, `batch_size` at a time or at the times of an arrival process."""

    def __init__(self, connection: Connection, server: Server, config: RunConfig, target: Model) -> None:
        self.connection, self.server, self.config, self.tokenizer = connection, server, config, target.tokenizer
        self.target, self.context = target, min(server.max_len or target.engine.max_len, target.engine.max_len)
        self.as_text, self.has_ids, self.failures, self.notes = False, True, 0, list[str]()
        self.lost = BackendLost("interrupted: the same command resumes.")
        self._probe(target)

    @property
    def facts(self) -> Mapping[str, Any]:
        """Return the server's software, version and model, and the form of prompts and answers."""
        return {"name": "openai", "address": self.connection.where, "server": asdict(self.server),
                "prompts": "text" if self.as_text else "token ids", "answers": "token ids" if self.has_ids else "text"}

    @property
    def warnings(self) -> Sequence[str]:
        """Return notes on what cannot be known about its answers."""
        return [BURSTS, *self.notes, *([] if self.has_ids else [EVEN]), *([DRAFTS] if self.server.speculates else [])]

    def refusal(self, strategy: Strategy) -> str | None:
        """Return why the server cannot run this strategy, or None if it can."""
        try:
            fields(strategy, self.server.kind, self.server.speculates)
        except Unsupported as error:
            return str(error)
        return None

    def generate(self, strategy: Strategy, requests: Sequence[GenerationRequest],
                 batch_size: int | None) -> Sequence[Generated | Exception]:
        """Decode with `batch_size` requests at a time; results are `BackendLost` once the server no longer answers."""
        wanted = fields(strategy, self.server.kind, self.server.speculates)
        start, rate, count = time.perf_counter(), self.config.request_rate, len(requests)
        due = arrivals(rate, count, self.config.seed, requests[0].seed) if rate else [0.0] * count
        self.connection.stopped.clear()
        pool = ThreadPoolExecutor(min(count, batch_size or count))
        try:
            futures = [pool.submit(self._answer, wanted, request, start, at)
                       for request, at in zip(requests, due, strict=True)]
            return [_outcome(future) for future in futures]
        finally:
            self.connection.stopped.set()  # when interrupted, ends waits and streams
            pool.shutdown(wait=True, cancel_futures=True)

    def counters(self) -> Mapping[str, float]:
        """Return the server's counters since its start, if it drafts."""
        return read_counters(self.connection) if self.server.speculates else {}

    def close(self) -> None:
        """Close the connections."""
        self.connection.stopped.set()
        self.connection.client.close()

    def _answer(self, wanted: Fields, request: GenerationRequest, start: float, due: float) -> Generated:
        """Return the answer of a request sent when due; raises `BackendLost`, or `UserError` for this request."""
        if (left := start + due - time.perf_counter()) > 0:
            self.connection.stopped.wait(left)
        if self.connection.stopped.is_set():
            raise self.lost
        sent = time.perf_counter() - start
        try:
            answer, _ = self.connection.ask(lambda: self._reply(wanted, request).answer())
        except Failed as error:
            raise self._classified(error) from None
        self.failures = 0
        return replace(answer, sent=sent)

    def _reply(self, wanted: Fields, request: GenerationRequest) -> Reply:
        """Send a request once and return the reply; times start when it is sent."""
        body = self._body(wanted, request)
        parts, start = list[tuple[float, bytes]](), time.perf_counter()
        prompt: Any = self.tokenizer.decode(list(request.prompt)) if self.as_text else list(request.prompt)
        with self.connection.client.completions.with_streaming_response.create(
                model=self.server.model, prompt=prompt, extra_body=body) as response:
            for part in response.iter_bytes():
                parts.append((time.perf_counter() - start, part))  # parsed later, so that arrival times are exact
                if self.connection.stopped.is_set():
                    raise ValueError("it was interrupted")
        return read(parts, request.sample if body.get("use_beam_search") else 0)

    def _body(self, wanted: Fields, request: GenerationRequest) -> dict[str, Any]:
        """Return the fields of a request except the prompt; beam search is not streamed and returns all beams."""
        body = {**wanted, "max_tokens": request.max_tokens, "seed": request.seed % 2**31}
        if request.stops:
            body["stop"] = list(request.stops)
        if self.server.kind == "vLLM":
            body["include_stop_str_in_output"] = True  # the harness cuts answers, as for the reference
        if self.has_ids:
            body["return_token_ids"] = True
        return body if "use_beam_search" in body else body | {"stream": True, "stream_options": {"include_usage": True}}

    def _classified(self, error: Failed) -> Exception:
        """Convert a failed request to an error of the server or of this request alone."""
        where = self.connection.where
        if self.connection.stopped.is_set():
            return self.lost
        if error.status in REFUSED:
            return BackendLost(f"{where} refuses requests for '{self.server.model}' ({error}); check the server and "
                               "the key: the same command resumes.")
        if not (error.lost or (error.status or 0) >= 500):
            return UserError(f"the server gave no answer: {error}")
        self.failures += 1
        if self.failures >= GIVE_UP or (error.lost and not self._there()):
            self.lost = BackendLost(f"{where} no longer answers ({error}); start it again: the same command resumes.")
            self.connection.stopped.set()  # ends the waits before further tries
            return self.lost
        return UserError(f"the server gave no answer in {error.tries} tries: {error}")

    def _there(self) -> bool:
        try:
            return bool(self.connection.get(f"{self.connection.where}/models"))
        except Failed as error:
            return not error.lost

    def _probe(self, target: Model) -> None:
        """Test whether the server takes and returns token ids, and whether it tokenizes as the tokenizer here does.

        Raises `UserError` when the server completes no prompt at all.
        """
        request = GenerationRequest(tuple(encode(target, WARM_UP)), 1, 0)
        for self.as_text, self.has_ids in product((False, True), (True, False)):
            try:
                self.has_ids = self._tried(request).has_ids
                break
            except Failed as error:
                if error.status not in UNSUPPORTED or self.as_text > self.has_ids:
                    raise UserError(f"The server at {self.connection.where} completes no prompt ({error}); it must "
                                    "offer completions, and not only chats.") from None
        ids, self.as_text = self.as_text, True
        seen, self.as_text = self._tried(request).counted, ids
        if seen and seen.prompt_tokens != len(request.prompt):
            self.notes.append(f"The server makes {seen.prompt_tokens} tokens of a text of which the tokenizer of "
                            f"{self.config.tokenizer or self.config.model} makes {len(request.prompt)}: if they are "
                            "not the same, name the right one with --tokenizer.")

    def _tried(self, request: GenerationRequest) -> Reply:
        def read_through() -> Reply:
            reply = self._reply(NEUTRAL[self.server.kind], request)
            reply.answer()
            return reply
        return self.connection.ask(read_through, 2)[0]


def arrivals(rate: float, count: int, *parts: object) -> list[float]:
    """Return the arrival times of `count` requests in seconds: a Poisson process with `rate` per second.

    Equal `parts` give equal times.
    """
    gaps = -PhiloxStream("arrivals", *parts).uniform(count).log() / rate
    return list(accumulate(gaps.tolist()))


def _outcome(future: Future[Generated]) -> Generated | Exception:
    try:
        return future.result()
    except Exception as error:
        return error


def _settings(given: Sequence[str]) -> dict[str, Any]:
    """Parse the options of --engine: `timeout` in seconds and `tries`; raises `UserError` for others."""
    kinds: dict[str, type[float] | type[int]] = {"timeout": float, "tries": int}
    options: dict[str, Any] = {"tries": TRIES}
    for text in given:
        name, _, value = text.partition("=")
        if name not in kinds:
            raise UserError(f"--backend openai has no option '{name}'.{suggestion(name, kinds)}")
        try:
            options[name] = kinds[name](value)
        except ValueError:
            options[name] = 0
        if not options[name] > 0:
            raise UserError(f"--engine {name} must be a number above 0, not '{value}'.")
    return options
