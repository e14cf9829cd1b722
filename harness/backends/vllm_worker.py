"""The process of one vLLM engine: receives prompts, and sends back tokens with the counts of each step."""

import gc
import os
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, NamedTuple

QUIET = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
         "VLLM_LOGGING_LEVEL": "ERROR", "NUMBA_NUM_THREADS": "1"}


class Text(NamedTuple):
    """A request to the worker; options that all requests of a cell share are sent once, as `sampling`."""

    prompt: tuple[int, ...]
    max_tokens: int
    seed: int
    eos: tuple[int, ...]
    stops: tuple[str, ...]
    sample: int


@dataclass
class Reply:
    """The result of a request: lists of `Steps` and the number of cached prompt tokens (`shared`), or an `error`."""

    tokens: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    drafted: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    shared: int = 0
    stop: str = "unknown"
    error: str = ""


def serve(pipe: Any, options: dict[str, Any], plugins: Sequence[Path], threads: int, log: str) -> None:
    """Start an engine with these `options` of `vllm.LLM`, and run jobs until the pipe is closed."""
    os.environ.update(QUIET | {"OMP_NUM_THREADS": str(threads)})
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(output, stream)
    tracker: Any = resource_tracker._resource_tracker
    tracker._fd = tracker._pid = None  # a separate tracker: the parent's would warn about resources of a killed engine
    try:
        engine, facts = _started(options, plugins)
        pipe.send(("ready", facts))
    except BaseException as error:
        traceback.print_exc()
        pipe.send(("failed", type(error).__name__, _chain(error)))
        return
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            break
        try:
            pipe.send(("done", engine.beams(*job[1:]) if job[0] == "beam" else engine.answers(*job[1:])))
        except Exception as error:  # concerns this cell only; the engine continues
            traceback.print_exc()
            pipe.send(("wrong", type(error).__name__, _chain(error)))
    del engine
    gc.collect()



def _chain(error: BaseException) -> str:
    """Return the messages of an error and its causes, the root cause first."""
    messages = list[str]()
    at: BaseException | None = error
    while at is not None:
        messages.append(str(at) or type(at).__name__)
        at = at.__cause__ or at.__context__
    return "\n".join(reversed(messages))


def _started(options: dict[str, Any], plugins: Sequence[Path]) -> tuple["Engine", dict[str, Any]]:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    from vllm import LLM

    from harness.backends.vllm_mend import mend
    from harness.plugins.registry import add_plugin

    for path in plugins:
        add_plugin(path)
    mended = mend()
    llm = LLM(**options)
    config = llm.llm_engine.vllm_config
    facts = {"eager": bool(config.model_config.enforce_eager),
             "prefix_caching": bool(config.cache_config.enable_prefix_caching),
             "block": config.cache_config.block_size, "max_len": config.model_config.max_model_len,
             "texts": config.scheduler_config.max_num_seqs, "runner": _runner(llm), "mended": mended,
             "method": getattr(config.speculative_config, "method", None)}
    return Engine(llm), facts


def _runner(llm: Any) -> str:
    """Return the version of vLLM's model runner; only version 2 supports block verification."""
    config = getattr(llm.llm_engine, "vllm_config", None)
    return "V2" if getattr(config, "use_v2_model_runner", False) else "V1"


@dataclass
class Live:
    """A running request: the time of its last token, and its draft counts, which vLLM updates."""

    place: int
    reply: Reply
    last: float
    metrics: Any = None
    seen: int = 0


class Engine:
    """Calls vLLM's engine step by step to record the tokens and the time of every step."""

    def __init__(self, llm: Any) -> None:
        self.llm, self.number = llm, 0

    def answers(self, texts: Sequence[Text], sampling: dict[str, Any], together: int) -> list[Reply]:
        """Decode `texts` with continuous batching, at most `together` at a time."""
        engine, waiting, live = self.llm.llm_engine, deque(enumerate(texts)), dict[str, Live]()
        replies = [Reply() for _ in texts]
        self._reseed(texts)
        while waiting or live:
            while waiting and len(live) < together:
                place, text = waiting.popleft()
                self.number += 1
                one = live[str(self.number)] = Live(place, replies[place], time.perf_counter())
                try:
                    inner = engine.add_request(str(self.number), {"prompt_token_ids": list(text.prompt)},
                                               _sampling(text, sampling))
                    one.metrics = self._request(inner).spec_decode_metrics
                except Exception as error:  # vLLM rejects this request only
                    del live[str(self.number)]
                    replies[place].error = f"{type(error).__name__}: {error}"
            for output in engine.step() if live else ():
                one = live[output.request_id]
                _note(one, output, time.perf_counter())
                if output.finished:
                    del live[output.request_id]
        return replies

    def beams(self, texts: Sequence[Text], knobs: dict[str, Any], together: int) -> list[Reply]:
        """Return the best hypotheses of beam search; all tokens arrive at the end, the first one included."""
        replies = list[Reply]()
        for max_tokens, alike in groupby(texts, lambda text: text.max_tokens):  # one search has one limit
            group = list(alike)
            for start in range(0, len(group), together):
                replies += self._searched(group[start:start + together], max_tokens, knobs)
        return replies

    def _searched(self, texts: Sequence[Text], max_tokens: int, knobs: dict[str, Any]) -> list[Reply]:
        from vllm.sampling_params import BeamSearchParams

        begin, replies = time.perf_counter(), list[Reply]()
        params = BeamSearchParams(beam_width=knobs["width"], max_tokens=max_tokens, ignore_eos=not texts[0].eos)
        with ranked(knobs):
            done = self.llm.beam_search([{"prompt_token_ids": list(text.prompt)} for text in texts], params)
        seconds = time.perf_counter() - begin
        for text, result in zip(texts, done, strict=True):
            if text.sample >= len(result.sequences):
                replies.append(Reply(error=f"the search found {len(result.sequences)} answers, not {text.sample + 1}"))
                continue
            tokens = result.sequences[text.sample].tokens[len(text.prompt):]
            replies.append(Reply(tokens, [len(tokens)], [seconds], stop="ended"))
        return replies

    def _reseed(self, texts: Sequence[Text]) -> None:
        """Seed torch's generator, from which vLLM samples drafts whatever the seed of the request."""
        import torch

        if texts:
            torch.manual_seed(texts[0].seed)

    def _request(self, inner: str) -> Any:
        return self.llm.llm_engine.engine_core.engine_core.scheduler.requests[inner]


def _sampling(text: Text, options: dict[str, Any]) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    if grammar := options.get("structured_outputs"):
        options = {**options, "structured_outputs": StructuredOutputsParams(**grammar)}
    return SamplingParams(max_tokens=text.max_tokens, seed=text.seed, stop_token_ids=list(text.eos), ignore_eos=True,
                          stop=list(text.stops) or None, include_stop_str_in_output=True,
                          detokenize=bool(text.stops), **options)


def _note(one: Live, output: Any, now: float) -> None:
    """Record a step of a request: its new tokens, its time, and its drafted and accepted tokens."""
    done, reply = output.outputs[0], one.reply
    new = len(done.token_ids) - len(reply.tokens)
    if new:
        reply.tokens = list(done.token_ids)
        reply.counts.append(new)
        reply.seconds.append(now - one.last)
        one.last = now
        steps = len(one.metrics.per_step_drafted) if one.metrics is not None else 0
        reply.drafted.append(sum(one.metrics.per_step_drafted[one.seen:]) if steps > one.seen else 0)
        reply.accepted.append(sum(one.metrics.per_step_accepted[one.seen:]) if steps > one.seen else 0)
        one.seen = steps
    if output.finished:
        reply.shared = output.num_cached_tokens or 0
        known = {"length": "length", "stop": "eos" if isinstance(done.stop_reason, int | None) else "stop"}
        reply.stop = known.get(done.finish_reason, "unknown")


@contextmanager
def ranked(knobs: dict[str, Any]) -> Iterator[None]:
    """Let vLLM's beam search rank hypotheses by the length rule of the strategy.

    vLLM itself always divides log p by (prompt + answer)^penalty.
    """
    from vllm.entrypoints.generate.beam_search import offline

    from harness.decoding.search import divisor

    def score(beam: Any) -> float:
        size = len(beam.orig_prompt["prompt_token_ids"])
        rule = divisor(knobs["length_rule"], knobs["length_penalty"], knobs["offset"], size)
        return float(beam.cum_logprob) / rule(max(1, len(beam.tokens) - size))
    own = offline.create_sort_beams_key_function
    offline.create_sort_beams_key_function = lambda eos, penalty: score
    try:
        yield
    finally:
        offline.create_sort_beams_key_function = own
