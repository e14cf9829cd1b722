"""Results of vLLM: `vllm bench serve --save-result --save-detailed`, or the responses of its server, one per line.

Responses are those of /v1/completions and /v1/chat/completions, or rows of `vllm run-batch`. The server adds times with
`--enable-per-request-metrics`, and drafted and accepted tokens with `--per-request-spec-decode-metrics detailed`.
"""

from typing import Any

from pydantic import Field

from harness.errors import UserError
from harness.export import serving
from harness.export.imported import ImportedRun, Source, record, rows
from harness.store.completion import Choice, Metrics, Usage, stop_of
from harness.store.foreign import Row, checked
from harness.store.schema import Record, Steps
from harness.store.steps import verified

UNDRAFTED = "One token per step is assumed for responses without draft counts (--per-request-spec-decode-metrics)."
UNORDERED = "The order of steps is unknown for responses with only a histogram of them (…-metrics summary)."
SHARED = "Times of single steps are unknown: the decoding time is divided equally among the steps after the first."


class Response(Row):
    """A response of the server."""

    model: str = "unknown"
    choices: list[Choice] = Field(min_length=1, max_length=1)
    usage: Usage
    metrics: Metrics | None = None


def read(source: Source) -> list[ImportedRun]:
    """Import the requests of one file, each benchmark run separately; raises `UserError` with the invalid line."""
    runs = list[ImportedRun]()
    responses = ImportedRun("requests", source.name or source.path.stem, warnings=[serving.ORDER])
    for where, value in rows(source.path):
        if "choices" in value or "custom_id" in value:
            _add(responses, value, where)
        elif "request_throughput" in value:
            runs.append(serving.benchmark(source, value, where, serving.by_chunk, "--save-detailed"))
        else:
            raise UserError(f"{where}: this is neither a result of 'vllm bench serve' nor a response of its server.")
    return [*runs, responses] if responses.records else runs


def _add(run: ImportedRun, value: dict[str, Any], where: str) -> None:
    example = str(value.get("custom_id") or f"requests/{len(run.records):06}")
    if example in run.identity:
        raise UserError(f"{where}: the request {example} occurs twice.")
    run.identity[example] = ""
    if "custom_id" in value:
        value = (value.get("response") or {}).get("body") or value
    if "choices" not in value:
        problem = str(value.get("error") or "no response")
        run.records.append(record(example, status="failed", error=problem))
        return
    row = checked(Response, value, where)
    run.identity[example], run.model = str(row.usage.prompt_tokens), row.model
    run.records.append(_record(row, example, where))
    drafts = row.metrics.speculative_decoding if row.metrics else None
    warnings = [SHARED, *([UNDRAFTED] if not drafts else [] if drafts.per_step_accepted is not None else [UNORDERED])]
    run.warnings += [warning for warning in warnings if warning not in run.warnings]


def _record(row: Response, example: str, where: str) -> Record:
    choice, metrics = row.choices[0], row.metrics or Metrics()
    text = (choice.message.content if choice.message else choice.text) or ""
    first, later = metrics.time_to_first_token_ms, metrics.generation_time_ms
    times = None if first is None else (first / 1000, (later or 0.0) / 1000)
    turn = serving.answer(text, row.usage.prompt_tokens, _steps(row.usage.completion_tokens, metrics, times, where),
                          stop_of(choice), ids=choice.token_ids or ())
    return record(example, turns=[turn], seconds=sum(times) if times else 0.0)


def _steps(tokens: int, metrics: Metrics, times: tuple[float, float] | None, where: str) -> Steps:
    drafts = metrics.speculative_decoding
    accepted, drafted = drafts.by_step(where) if drafts else ([], [])
    return verified(tokens, accepted, drafted, times)
