"""`decodebench run`: run or resume, write the report, print the table."""

import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from typer import Option

from harness.cli import complete
from harness.cli import dry_run as planned
from harness.cli.options import (
    Baseline,
    BatchSize,
    Budget,
    DeviceMap,
    Heads,
    Precision,
    Ray,
    Rope,
    Shards,
    Share,
    Tasks,
    TemplateArgs,
    Tokenizer,
    check_names,
)
from harness.cli.report import show, tables_of, written
from harness.errors import UserError
from harness.plugins.spec import Spec, separated
from harness.store.shard import of_array_job

if TYPE_CHECKING:
    from harness.cli.early_page import EarlyPage
    from harness.cli.finished import Finished
    from harness.report.terminal import FittedTable
    from harness.run.runner import Outcome
    from harness.store.config import RunConfig

Text = str | None
Texts = list[str] | None
Number = int | None
Flag = bool | None


def command(
    context: typer.Context,
    model: Annotated[Text, Option("-m", "--model", metavar="MODEL", help="nano, smollm2, a folder, a .gguf file or "
                                                                     "a hub id [nano]")] = None,
    draft: Annotated[Text, Option(metavar="MODEL", help="draft model for speculative decoding")] = None,
    heads: Heads = None, tokenizer: Tokenizer = None,
    template_args: TemplateArgs = None, rope: Rope = None,
    strategies: Annotated[Texts, Option("-s", "--strategy", metavar="NAME[:k=v,…]", callback=separated,
                                        autocompletion=complete.strategies, help="repeatable [--preset all]")] = None,
    baseline: Baseline = None,
    preset: Annotated[Text, Option(metavar="NAME", autocompletion=complete.presets,
                                   help="a set of strategies: first, speed, quality or all")] = None,
    tasks: Tasks = None,
    task_files: Annotated[list[Path] | None, Option("--task-file", metavar="FILE",
                                                    help="your own task: prompts, with or without answers")] = None,
    prompts: Annotated[Path | None, Option(metavar="FILE", help="your own prompts, one a line or in a table")] = None,
    limit: Annotated[Number, Option(metavar="N", help="first N examples of a task [all; 5 without --task]")] = None,
    concurrency: BatchSize = None,
    samples: Annotated[Number, Option(metavar="N", help="answers to each prompt [1]")] = None,
    repeats: Annotated[Number, Option(metavar="N", help="repetitions of the whole run [1]")] = None,
    max_new_tokens: Annotated[Number, Option(metavar="N", help="maximum tokens of an answer [the task's]")] = None,
    seed: Annotated[Number, Option(metavar="N", help="seed of sampling and of the order of strategies [0]")] = None,
    backend: Annotated[Text, Option(metavar="NAME", help="transformers, vllm or openai [transformers]")] = None,
    engine: Annotated[Texts, Option(metavar="NAME=VALUE", help="option of the backend; repeatable")] = None,
    base_url: Annotated[Text, Option(metavar="URL", help="the server of --backend openai")] = None,
    key_variable: Annotated[Text, Option(metavar="NAME", help="environment variable with the server's API key")] = None,
    request_rate: Annotated[float | None, Option(metavar="R", help="requests per second (Poisson arrivals)")] = None,
    dtype: Annotated[Text, Option(metavar="D", help="float32, bfloat16 or float16 [bfloat16 on a GPU]")] = None,
    device: Annotated[Text, Option(metavar="D", help="cpu, cuda, cuda:1, … [auto]")] = None,
    device_map: DeviceMap = None,
    threads: Annotated[Number, Option(metavar="N", help="CPU threads [1 for a small model]")] = None,
    data: Annotated[Path | None, Option(metavar="DIR", help="data sets [$DECODEBENCH_DATA, then the hub]")] = None,
    config: Annotated[Path | None, Option(metavar="FILE.toml", help="settings; options here override them")] = None,
    plugins: Annotated[list[Path] | None, Option("--plugin", metavar="FILE.py",
                                                 help="file with your own strategy or task; repeatable")] = None,
    allow_code_execution: Annotated[Flag, Option("--allow-code-execution", help="execute any model's programs")] = None,
    truncate_prompts: Annotated[Flag, Option("--truncate-prompts", help="cut too long prompts at their start")] = None,
    share_prefix: Annotated[Flag, Option("--share-prefix/--no-share-prefix", help="prefill common prefixes once [yes]")
                            ] = None,
    cache_gb: Annotated[float | None, Option(metavar="GB", help="size of the KV cache [half the free memory]")] = None,
    compile: Annotated[Flag, Option("--compile", help="compile the model: slow start, faster steps")] = None,
    texts: Annotated[Flag, Option("--texts/--no-texts", help="text metrics [if open-ended or several samples]")] = None,
    scorer: Annotated[Text, Option(metavar="MODEL", help="model that scores texts [the model itself]")] = None,
    trace: Annotated[Text, Option(metavar="full", help="also keep trees of steps, and ranks of sampled tokens")] = None,
    shard: Share = None, budget: Budget = None, precision: Precision = None,
    ray: Ray = None, shards: Shards = None,
    output: Annotated[Path | None, Option("-o", "--output", metavar="DIR", help="folder of the run [runs/…]")] = None,
    force: Annotated[bool, Option("--force", help="start over; an earlier run in the folder is moved aside")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="only say what would run and how long it may take")] = False,
    quiet: Annotated[bool, Option("--quiet", help="print only the path of the page")] = False,
    as_json: Annotated[bool, Option("--json", help="print the ranking and the verdict as JSON")] = False,
) -> int:
    """Run strategies on tasks, or resume a run, and print the table.

    Without strategies, tasks and --limit, six strategies answer 20 examples of two embedded tasks. The same command
    resumes a stopped run. Exit code 3: some samples failed, or a repeated error ended the run.
    """
    options = dict(context.params)
    manner = Manner(**{name: options.pop(name) for name in Manner._fields})
    return _run(_settings(options), manner)


class Manner(NamedTuple):
    """How a run starts and answers, which is no part of its settings."""

    force: bool = False
    dry_run: bool = False
    quiet: bool = False
    as_json: bool = False
    ray: str | None = None
    shards: str | None = None


def _run(settings: "RunConfig", manner: Manner) -> int:
    """Run, print the answer and return the exit code."""
    from harness.cli import finished

    if manner.dry_run and manner.ray:
        raise UserError("--dry-run tells what this machine would run: leave --ray out.")
    if manner.dry_run and (manner.quiet or manner.as_json):
        raise UserError("--dry-run says in words what would run: leave --quiet and --json out.")
    if manner.shards and not manner.ray:
        raise UserError("--shards is for --ray: give that, too, or one share of the examples with --shard 1/8.")
    if manner.shards and not re.fullmatch("auto|[1-9][0-9]*", manner.shards):
        raise UserError(f"--shards must be a number from 1 on, or auto, not '{manner.shards}'.")
    watchers: list[EarlyPage] = []
    check_names(settings)
    try:
        if manner.dry_run:
            planned.show(settings, manner.force)
            return 0
        if not manner.force and (known := finished.find(settings)):
            return _again(known, manner)
        outcome = _decoded(settings, manner, watchers)
        page = _answer(outcome, settings, manner)
    except KeyboardInterrupt:
        return _stopped(watchers)
    return _failures(outcome, page) if outcome.failed else 0


def _decoded(settings: "RunConfig", manner: Manner, watchers: "list[EarlyPage]") -> "Outcome":
    """Run here, with a page from time to time, or on a cluster."""
    from harness.cli.early_page import EarlyPage
    from harness.cli.progress import watching

    command = shlex.join(["decodebench", *sys.argv[1:]])
    with watching(ask=settings.limit is None, quiet=manner.quiet) as lines:
        if manner.ray:
            from harness.cluster import driver

            return driver.run(settings, manner.ray, manner.shards or driver.AUTO, lines, command, manner.force)
        from harness.run.runner import run

        watchers.append(EarlyPage(lines))
        return run(settings, watchers[0], command, start_over=manner.force)


def _answer(outcome: "Outcome", settings: "RunConfig", manner: Manner) -> Path:
    """Write the report, print what `manner` asks for, and keep it; returns the path of the page."""
    from harness.cli import finished
    from harness.measure.leaderboard import leaderboard, rule
    from harness.report import ranking

    (store,), contents, page = written([outcome.folder], outcome.folder / "report")
    tables, board = tables_of([store], contents), leaderboard(contents.summary, {"": store.manifest})
    answer = {"folder": str(outcome.folder), "page": str(page), "samples": outcome.samples, "failed": outcome.failed,
              "leaderboard": ranking.rows(board), "rule": rule(board), "verdict": contents.verdict}
    _print(tables, answer, manner)
    finished.keep(settings, outcome, store, page, answer, [table.stored() for table in tables])
    return page


def _again(known: "Finished", manner: Manner) -> int:
    """Print what a finished run printed; returns exit code 0."""
    from harness.cli.progress import watching
    from harness.report.terminal import FittedTable

    with watching(quiet=manner.quiet) as lines:
        lines.planned(known.samples, known.samples, Path(known.folder), known.notes)
    _print([FittedTable.restored(table) for table in known.shown], known.answer, manner)
    return 0


def _print(tables: "Sequence[FittedTable]", answer: dict[str, Any], manner: Manner) -> None:
    """Print the tables and the verdict, or what `manner` asks for instead."""
    if manner.as_json:
        typer.echo(json.dumps(answer, ensure_ascii=False, indent=1))
    elif manner.quiet:
        typer.echo(answer["page"])
    else:
        show(tables, answer["verdict"], Path(answer["page"]))


def _stopped(watchers: "list[EarlyPage]") -> int:
    """Say how to go on and where the page of the finished samples is; returns exit code 130."""
    typer.echo("Stopped: the same command resumes.", err=True)
    with suppress(KeyboardInterrupt):  # a second one leaves at once
        if watchers and (page := watchers[0].last()):
            typer.echo(f"Page of the finished samples: {page}", err=True)
    return 130


def _failures(outcome: "Outcome", page: Path) -> int:
    """Print the number of failed samples and the first traceback of a bug, if any; returns exit code 3."""
    if outcome.traceback:
        typer.echo(outcome.traceback, err=True)
    typer.echo(f"{outcome.failed} of {outcome.samples} samples failed: see {page}, or the records in "
               f"{outcome.folder / 'records'} whose status is \"failed\".", err=True)
    return 3


def _settings(options: dict[str, Any]) -> "RunConfig":
    """Merge the options with the configuration file; options win."""
    from harness.store.config import RunConfig

    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value
                             for key, value in options.items() if value not in (None, [], ())}
    config, files, prompts = given.pop("config", None), given.pop("task_files", ()), given.pop("prompts", None)
    if prompts:
        files = (*files, prompts)
    if "shard" not in given and (shard := of_array_job(os.environ)):
        typer.echo(f"This Slurm array job runs shard {shard.number}/{shard.shards}; --shard 1/1 runs everything.",
                   err=True)
        given["shard"] = f"{shard.number}/{shard.shards}"
    if files:
        given["tasks"] = (*given.get("tasks", ()), *map(_task_of, files))
    return RunConfig.from_toml(config, **given) if config else RunConfig(**given)


def _task_of(path: Path) -> str:
    """Return the spec of the task in a file; raises `UserError` for a name with a comma or a plus sign."""
    spec = Spec.of("task_file", file=str(path))
    if not spec.readable:
        raise UserError(f"The file name {path} must not contain a comma or a plus sign; rename the file.")
    return str(spec)
