"""The common format of vLLM's and SGLang's serving benchmarks: one JSON object per run, with a list per figure."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import Field

from harness.errors import UserError
from harness.export.imported import ImportedRun, Source, record
from harness.store.foreign import Count, Row, Seconds, checked, equally_long
from harness.store.schema import Record, Steps, Stop, Turn
from harness.store.steps import spread, steps

Chunks = Callable[[int, Sequence[float]], tuple[list[int], list[float]]]
LISTS = ("input_lens", "output_lens", "ttfts", "itls", "generated_texts", "errors")
ORDER = "Requests are matched by their position in the file: the same requests in the same order are assumed."
EVEN = ("The benchmark records when chunks arrived, not how many tokens each contained: tokens are spread evenly over "
        "them, and τ is tokens per chunk.")


class Benchmark(Row):
    """A run of `bench serve` or `bench_serving` with the details of each request; times are in seconds."""

    input_lens: list[Count] = Field(min_length=1)
    output_lens: list[Count]
    ttfts: list[Seconds]
    itls: list[list[Seconds]]
    generated_texts: list[str]
    errors: list[str]
    start_times: list[float] = Field(default_factory=list)
    duration: float = Field(gt=0)
    max_concurrency: int | None = None
    model_id: str = "unknown"
    backend: str = ""


def benchmark(source: Source, value: dict[str, Any], where: str, chunks: Chunks, switch: str) -> ImportedRun:
    """Import the requests of one run; `chunks` turns an answer's token count and gaps into steps.

    Raises `UserError` if the file has no single requests; the message names the `switch` that logs them.
    """
    if "output_lens" not in value or "itls" not in value:
        raise UserError(f"{where}: single requests are missing; run the benchmark with {switch}.")
    run = checked(Benchmark, value, where)
    equally_long({name: getattr(run, name) for name in LISTS}, where)
    imported = ImportedRun(task="requests", strategy=source.name or source.path.stem, model=run.model_id,
                           concurrency=run.max_concurrency or len(run.input_lens), warnings=[ORDER])
    share = None if imported.concurrency == 1 else run.duration / len(run.input_lens)
    for index in range(len(run.input_lens)):
        example = f"requests/{index:06}"
        imported.identity[example] = json.dumps(run.input_lens[index])
        imported.records.append(_record(run, index, example, chunks, share))
    if chunks is by_chunk and any(sum(turn.steps.tokens) > len(turn.steps.tokens)
                                  for one in imported.records for turn in one.turns):
        imported.warnings.append(EVEN)
    return imported


def by_chunk(tokens: int, gaps: Sequence[float]) -> tuple[list[int], list[float]]:
    """Return tokens and gaps of each chunk: one token in the first chunk, the rest spread evenly."""
    return ([1, *spread(tokens - 1, len(gaps))] if gaps else [tokens]), list(gaps)


def _record(run: Benchmark, index: int, example: str, chunks: Chunks, share: float | None) -> Record:
    tokens, started = run.output_lens[index], run.start_times[index] - min(run.start_times) if run.start_times else 0.0
    about: dict[str, Any] = {"started": started} | ({"batch": float("nan")} if share else {})
    if run.errors[index] or tokens == 0:
        error = run.errors[index].strip() or "the response has no tokens"
        return record(example, status="failed", error=error, **about)
    counts, gaps = chunks(tokens, run.itls[index])
    seconds = [run.ttfts[index], *gaps]
    turn = answer(run.generated_texts[index], run.input_lens[index], steps(counts, seconds))
    return record(example, turns=[turn], seconds=share or sum(seconds), **about)


def answer(text: str, prompt_tokens: int, steps: Steps, stop: Stop = "unknown", prompt: str = "",
           ids: Sequence[int] = ()) -> Turn:
    """Return the only turn of a request."""
    return Turn(prompt=prompt, prompt_tokens=prompt_tokens, text=text, raw=text, tokens=list(ids), stop=stop,
                steps=steps)
