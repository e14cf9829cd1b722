"""`decodebench judge`: let a language model rate the answers of a finished run."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from harness.errors import UserError
from harness.plugins.spec import separated

if TYPE_CHECKING:
    from harness.judge.judging import JudgePlan
    from harness.judge.options import Options
    from harness.judge.reply import Judge
    from harness.judge.verdicts import Verdict
    from harness.store.folder import Store

Text = str | None
Money = float | None


def command(
    context: typer.Context,
    run: Annotated[Path, Argument(metavar="DIR", help="folder that `run` wrote", show_default=False)],
    judge: Annotated[str, Option("-j", "--judge", metavar="MODEL", help="model of the endpoint, or a local one: nano, "
                                 "a folder or a hub id [gpt-4]", show_default=False)] = "gpt-4",
    base_url: Annotated[Text, Option("--base-url", metavar="URL", help="an OpenAI-compatible endpoint, ending in /v1 "
                                     "[OpenAI's]")] = None,
    key_variable: Annotated[Text, Option(metavar="NAME", help="environment variable with the API key [OPENAI_API_KEY, "
                                         "for OpenAI only]")] = None,
    mode: Annotated[str, Option(metavar="MODE", help="single: rate each answer; pairwise: compare it with the "
                                "baseline's [single]", show_default=False)] = "single",
    baseline: Annotated[Text, Option(metavar="S", help="strategy to compare with [the run's]")] = None,
    tasks: Annotated[list[str] | None, Option("-t", "--task", metavar="TASK", callback=separated,
                                              help="task to judge; repeatable [all that need a judge]")] = None,
    repeats: Annotated[int, Option(metavar="N", help="requests for each verdict [1]", min=1,
                                   show_default=False)] = 1,
    concurrency: Annotated[int, Option("--concurrency", "--batch-size", metavar="N", min=1, show_default=False,
                                       help="requests in flight, or for a local judge sequences decoded in one batch "
                                            "(continuous batching) [4]")] = 4,
    max_tokens: Annotated[int, Option(metavar="N", help="maximum tokens of a verdict [2048]", min=1,
                                      show_default=False)] = 2048,
    settings: Annotated[list[str] | None, Option("--setting", metavar="K=V", help="request parameter; repeatable; null "
                                                 "removes one [temperature=0]")] = None,
    timeout: Annotated[float, Option(metavar="S", help="seconds to wait for a response [600]", min=0.001,
                                     show_default=False)] = 600.0,
    tries: Annotated[int, Option(metavar="N", help="maximum tries per request [8]", min=1,
                                 show_default=False)] = 8,
    price_in: Annotated[Money, Option(metavar="P", help="price of a million prompt tokens", min=0)] = None,
    price_out: Annotated[Money, Option(metavar="P", help="price of a million output tokens", min=0)] = None,
    max_price: Annotated[Money, Option(metavar="P", help="maximum total price", min=0)] = None,
    yes: Annotated[bool, Option("-y", "--yes", help="send requests without asking")] = False,
    data: Annotated[Path | None, Option(metavar="DIR", help="folder with mt_bench/judge_prompts.jsonl and …/reference_"
                                        "answer_gpt-4.jsonl [$DECODEBENCH_DATA]")] = None,
    dtype: Annotated[str, Option(metavar="D", help="of a local judge [float32]", show_default=False)] = "float32",
    device: Annotated[str, Option(metavar="D", help="of a local judge [auto]", show_default=False)] = "auto",
    plugins: Annotated[list[Path] | None, Option("--plugin", metavar="FILE.py", help="file with your own task")] = None,
) -> int:
    """Let a language model rate the answers of a run (MT-Bench).

    Verdicts are appended to DIR/judge/verdicts.jsonl as they arrive; the same command resumes without repeating a
    request. Exit code 3: some verdicts failed.
    """
    from harness.judge.options import Options

    try:
        return _judge(Options(**context.params))
    except KeyboardInterrupt:
        typer.echo("Stopped: the same command resumes.", err=True)
        return 130


def _judge(options: "Options") -> int:
    from harness.judge.judging import examples_of, plan
    from harness.judge.prompts import Prompts
    from harness.plugins.data import DataSource
    from harness.plugins.registry import add_plugin
    from harness.store.folder import Store
    from harness.store.lock import locked

    for path in options.plugins or ():
        add_plugin(path)
    store, data = Store.open(options.run), DataSource(options.data)
    against, examples = options.against(store), examples_of(store, data, options.tasks or ())
    prompts = Prompts.load(data, options.mode, [one for by_id in examples.values() for one in by_id.values()])
    judge = options.build()
    with locked(store.folder):
        work = plan(store, judge, options.mode, prompts, examples, baseline=against, repeats=options.repeats)
        _announce(work, judge, options)
        if work.ask and not _may_send(options):
            typer.echo("Nothing was sent.", err=True)
            return 0
        return _carry_out(store, judge, work)


def _announce(work: "JudgePlan", judge: "Judge", options: "Options") -> None:
    """Print how many verdicts are missing and what they will cost."""
    typer.echo(f"{work.wanted:,} verdicts of {judge.judge} ({judge.where}): {work.known:,} done, "
               f"{work.reused:,} reused, {len(work.ask):,} to request.", err=True)
    if work.ask and not options.local:
        prompt, output, max_output = work.size(judge.settings)
        expected, maximum = options.price.of(prompt, output), options.price.of(prompt, max_output)
        cost = "unknown, give --price-in and --price-out" if expected is None or maximum is None else \
            f"about {expected:.2f}, at most {maximum:.2f} plus retries"
        typer.echo(f"About {prompt:,} prompt tokens and {output:,} output tokens (at most {max_output:,}).\n"
                   f"Price: {cost}.", err=True)


def _may_send(options: "Options") -> bool:
    """Return whether requests may be sent: asks at a terminal; a script needs --yes or --max-price."""
    if options.local or options.yes or options.max_price is not None:
        return True
    if not _at_terminal():
        raise UserError("Requests may cost money: pass --yes to send them, or --max-price with --price-in and "
                        "--price-out.")
    return typer.confirm("Send the requests?", err=True)


def _at_terminal() -> bool:
    return sys.stdin.isatty()


def _carry_out(store: "Store", judge: "Judge", work: "JudgePlan") -> int:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from harness.cli.report import render
    from harness.judge.judging import request_verdicts

    counts = dict.fromkeys(("ok", "unparsed", "failed"), 0)
    console = Console(stderr=True)
    with Progress(TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), TimeRemainingColumn(),
                  console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("judging", total=len(work.ask))

        def show(verdict: "Verdict") -> None:
            counts[verdict.status] += 1
            summary = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
            progress.update(bar, advance=1, description=summary)

        reason = request_verdicts(store, judge, work, show)
    page = render([store.folder], store.folder / "report")
    if reason:
        typer.echo(f"Stopped: {reason}. The same command resumes.", err=True)
    if counts["failed"]:
        typer.echo(f"{counts['failed']} verdicts failed: see {page}, or the lines of "
                   f"{store.folder / 'judge' / 'verdicts.jsonl'} whose status is \"failed\".", err=True)
    return 3 if reason or counts["failed"] else 0
