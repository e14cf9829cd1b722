"""`decodebench judge`: let a language model rate the answers of a run that has ended."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from harness.errors import UserError

if TYPE_CHECKING:
    from harness.judge.judging import Work
    from harness.judge.options import Options
    from harness.judge.reply import Judge
    from harness.judge.verdicts import Verdict
    from harness.store.folder import Store

Text = str | None
Money = float | None


def command(
    context: typer.Context,
    run: Annotated[Path, Argument(metavar="DIR", help="folder that `run` wrote", show_default=False)],
    judge: Annotated[str, Option("-j", "--judge", metavar="MODEL", help="a model of the endpoint; or nano, a folder or "
                                 "a hub id, run here [gpt-4]", show_default=False)] = "gpt-4",
    base_url: Annotated[Text, Option("--base-url", metavar="URL", help="an OpenAI-compatible endpoint, ending in /v1 "
                                     "[OpenAI's]")] = None,
    key_variable: Annotated[Text, Option(metavar="NAME", help="the variable that holds the key [OPENAI_API_KEY, for "
                                         "OpenAI's only]")] = None,
    mode: Annotated[str, Option(metavar="MODE", help="single: rate each answer; pairwise: compare it with the "
                                "baseline's [single]", show_default=False)] = "single",
    baseline: Annotated[Text, Option(metavar="S", help="strategy to compare with [the run's]")] = None,
    tasks: Annotated[list[str] | None, Option("-t", "--task", metavar="TASK", help="again for more [all that want a "
                                              "judge]")] = None,
    repeats: Annotated[int, Option(metavar="N", help="times that each verdict is asked for [1]", min=1,
                                   show_default=False)] = 1,
    concurrency: Annotated[int, Option("--concurrency", "--batch-size", metavar="N", min=1, show_default=False,
                                       help="requests at a time, or of a judge run here sequences decoded in one batch "
                                            "(continuous batching) [4]")] = 4,
    max_tokens: Annotated[int, Option(metavar="N", help="length of a verdict [2048]", min=1,
                                      show_default=False)] = 2048,
    settings: Annotated[list[str] | None, Option("--setting", metavar="K=V", help="sent with each request; again for "
                                                 "more; null takes one out [temperature=0]")] = None,
    timeout: Annotated[float, Option(metavar="S", help="seconds to wait for an answer [600]", min=0.001,
                                     show_default=False)] = 600.0,
    tries: Annotated[int, Option(metavar="N", help="times that a request is tried [8]", min=1,
                                 show_default=False)] = 8,
    price_in: Annotated[Money, Option(metavar="P", help="of a million tokens read", min=0)] = None,
    price_out: Annotated[Money, Option(metavar="P", help="of a million tokens written", min=0)] = None,
    max_price: Annotated[Money, Option(metavar="P", help="spend no more than this", min=0)] = None,
    yes: Annotated[bool, Option("-y", "--yes", help="do not ask before requests are sent")] = False,
    data: Annotated[Path | None, Option(metavar="DIR", help="has mt_bench/judge_prompts.jsonl, …/reference_answer_"
                                        "gpt-4.jsonl [$DECODEBENCH_DATA]")] = None,
    dtype: Annotated[str, Option(metavar="D", help="of a judge run here [float32]", show_default=False)] = "float32",
    device: Annotated[str, Option(metavar="D", help="of a judge run here [auto]", show_default=False)] = "auto",
    plugins: Annotated[list[Path] | None, Option("--plugin", metavar="FILE.py", help="a task of your own")] = None,
) -> int:
    """Let a model rate the answers of a run (MT-Bench), and report again.

    Verdicts go to DIR/judge/verdicts.jsonl as they come; the same command resumes, and asks nothing twice. Exit code 3:
    some verdicts could not be had.
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

    for path in options.plugins or ():
        add_plugin(path)
    store, data = Store.open(options.run), DataSource(options.data)
    against, examples = options.against(store), examples_of(store, data, options.tasks or ())
    prompts = Prompts.load(data, options.mode, [one for found in examples.values() for one in found.values()])
    judge = options.build()
    work = plan(store, judge, options.mode, prompts, examples, baseline=against, repeats=options.repeats)
    _announce(work, judge, options)
    if work.ask and not _may_send(options):
        typer.echo("Nothing was sent.", err=True)
        return 0
    return _carry_out(store, judge, work)


def _announce(work: "Work", judge: "Judge", options: "Options") -> None:
    """Say what there is to do and what it will cost."""
    typer.echo(f"{work.wanted:,} verdicts of {judge.judge} ({judge.where}): {work.known:,} known from before, "
               f"{work.reused:,} the same as others, {len(work.ask):,} to ask for.", err=True)
    if work.ask and not options.here:
        reads, writes, most = work.size(judge.settings)
        usual, worst = options.price.of(reads, writes), options.price.of(reads, most)
        cost = "unknown, give --price-in and --price-out" if usual is None or worst is None else \
            f"about {usual:.2f}, at most {worst:.2f} and what is tried again"
        typer.echo(f"About {reads:,} tokens to read and {writes:,} to write (at most {most:,}).\nPrice: {cost}.",
                   err=True)


def _may_send(options: "Options") -> bool:
    """Whether requests may be sent; a person at a terminal is asked, a script must have said so."""
    if options.here or options.yes or options.max_price is not None:
        return True
    if not _at_terminal():
        raise UserError("Requests may cost money: give --yes to send them, or --max-price with the prices of tokens.")
    return typer.confirm("Send the requests?", err=True)


def _at_terminal() -> bool:
    return sys.stdin.isatty()


def _carry_out(store: "Store", judge: "Judge", work: "Work") -> int:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from harness.cli.report import render
    from harness.judge.judging import carry_out

    counts = dict.fromkeys(("ok", "unparsed", "failed"), 0)
    console = Console(stderr=True)
    with Progress(TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), TimeRemainingColumn(),
                  console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("judging", total=len(work.ask))

        def told(verdict: "Verdict") -> None:
            counts[verdict.status] += 1
            words = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
            progress.update(bar, advance=1, description=words)

        reason = carry_out(store, judge, work, told)
    page = render([store.folder], store.folder / "report")
    if reason:
        typer.echo(f"Stopped: {reason}. The same command resumes.", err=True)
    if counts["failed"]:
        typer.echo(f"{counts['failed']} verdicts could not be had: see {page}, or the lines of "
                   f"{store.folder / 'judge' / 'verdicts.jsonl'} whose status is \"failed\".", err=True)
    return 3 if reason or counts["failed"] else 0
