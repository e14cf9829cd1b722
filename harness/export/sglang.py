"""Results of SGLang: `bench_serving --output-details`, or the responses of /generate, one per line.

`meta_info` of a response has the counts of tokens, verifications and accepted drafts, and the time of the whole answer.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from pydantic import Field

from harness.errors import UserError
from harness.export import serving
from harness.export.imported import ImportedRun, Source, record, rows
from harness.store.completion import Verified
from harness.store.foreign import Count, Row, Seconds, checked
from harness.store.schema import Record, Steps, Stop
from harness.store.steps import verified

UNORDERED = "SGLang reports a histogram of accepted tokens per step, not their order; times of steps are unknown."


class Reason(Row):
    """The reason why an answer ended; `matched` is a token id or a stop string."""

    type: str
    matched: int | str | list[int] | None = None


class Info(Verified):
    """`meta_info` of a response."""

    id: str = ""
    prompt_tokens: Count
    completion_tokens: Count
    finish_reason: Reason | None = None
    e2e_latency: Seconds | None = None


class Response(Row):
    """A response of /generate."""

    text: str
    meta_info: Info
    output_ids: list[int] = Field(default_factory=list)


def read(source: Source) -> list[ImportedRun]:
    """Import the requests of one file, each benchmark run separately; raises `UserError` with the invalid line."""
    runs, responses = list[ImportedRun](), ImportedRun("requests", source.name or source.path.stem,
                                           warnings=[serving.ORDER, UNORDERED])
    for where, value in rows(source.path):
        if "meta_info" in value:
            row, example = checked(Response, value, where), f"requests/{len(responses.records):06}"
            responses.identity[example] = str(row.meta_info.prompt_tokens)
            responses.records.append(_record(row, example))
        elif "request_throughput" in value:
            chunks = by_token if value.get("backend") in ("sglang", "sglang-native") else serving.by_chunk
            runs.append(serving.benchmark(source, value, where, chunks, "--output-details"))
        else:
            raise UserError(f"{where}: this is neither a result of SGLang's bench_serving nor a response of /generate.")
    return [*runs, responses] if responses.records else runs


def by_token(tokens: int, gaps: Sequence[float]) -> tuple[list[int], list[float]]:
    """Return tokens and seconds of each chunk; SGLang divides a chunk's gap equally among its tokens."""
    if tokens <= len(gaps):
        return serving.by_chunk(tokens, gaps)
    chunks = [list(same) for _, same in groupby(gaps)]
    return [tokens - len(gaps), *map(len, chunks)], list(map(sum, chunks))


def _record(row: Response, example: str) -> Record:
    info = row.meta_info
    about: dict[str, Any] = {"seconds": info.e2e_latency or 0.0}
    if info.finish_reason and info.finish_reason.type == "abort":
        return record(example, status="failed", error="SGLang aborted the request")
    turn = serving.answer(row.text, info.prompt_tokens, _steps(info), _stop(info.finish_reason), ids=row.output_ids)
    return record(example, turns=[turn], **about)


def _steps(info: Info) -> Steps:
    """Return the steps by the histogram of accepted tokens; without one, with tokens spread evenly."""
    return verified(info.completion_tokens, *info.by_step(info.completion_tokens))


def _stop(reason: Reason | None) -> Stop:
    if reason is None or reason.type not in ("stop", "length"):
        return "unknown"
    return "length" if reason.type == "length" else "stop" if isinstance(reason.matched, str) else "eos"
