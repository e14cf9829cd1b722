"""`decodebench run`: run or resume, write the report, print the table."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from harness.errors import UserError
from harness.plugins.spec import Spec

if TYPE_CHECKING:
    from harness.store.config import RunConfig

Text = str | None
Texts = list[str] | None
Number = int | None
Flag = bool | None


def command(
    context: typer.Context,
    model: Annotated[Text, Option("-m", "--model", metavar="MODEL", help="nano, a folder or a hub id [nano]")] = None,
    draft: Annotated[Text, Option(metavar="MODEL", help="the small model that drafts")] = None,
    tokenizer: Annotated[Text, Option(metavar="MODEL", help="whose tokenizer, if not the model's")] = None,
    strategies: Annotated[Texts, Option("-s", "--strategy", metavar="NAME[:k=v,…]",
                                        help="again for more [all]")] = None,
    tasks: Annotated[Texts, Option("-t", "--task", metavar="TASK", help="again for more [embedded ones]")] = None,
    task_files: Annotated[list[Path] | None, Option("--task-file", metavar="FILE.jsonl",
                                                    help="a task of your own: prompts and answers")] = None,
    limit: Annotated[Number, Option(metavar="N", help="first N examples of a task [all]")] = None,
    concurrency: Annotated[Number, Option("--concurrency", "--batch-size", metavar="N",
                                          help="sequences decoded in one batch (continuous batching) [1]")] = None,
    samples: Annotated[Number, Option(metavar="N", help="answers to each prompt [1]")] = None,
    repeats: Annotated[Number, Option(metavar="N", help="times that everything is run [1]")] = None,
    max_new_tokens: Annotated[Number, Option(metavar="N", help="length of an answer [the task's]")] = None,
    seed: Annotated[Number, Option(metavar="N", help="seed of draws and of the order [0]")] = None,
    backend: Annotated[Text, Option(metavar="NAME", help="transformers, vllm or openai [transformers]")] = None,
    engine: Annotated[Texts, Option(metavar="NAME=VALUE", help="an option of its engine; again for more")] = None,
    base_url: Annotated[Text, Option(metavar="URL", help="the server of --backend openai")] = None,
    key_variable: Annotated[Text, Option(metavar="NAME", help="the environment variable with its key")] = None,
    request_rate: Annotated[float | None, Option(metavar="R", help="requests a second, at random times")] = None,
    dtype: Annotated[Text, Option(metavar="D", help="float32, bfloat16 or float16 [float32]")] = None,
    device: Annotated[Text, Option(metavar="D", help="cpu, cuda, cuda:1, … [auto]")] = None,
    threads: Annotated[Number, Option(metavar="N", help="CPU threads [1 for a small model]")] = None,
    data: Annotated[Path | None, Option(metavar="DIR", help="data sets [$DECODEBENCH_DATA, then the hub]")] = None,
    config: Annotated[Path | None, Option(metavar="FILE.toml", help="settings; options here override it")] = None,
    plugins: Annotated[list[Path] | None, Option("--plugin", metavar="FILE.py",
                                                 help="a strategy or task of your own; again for more")] = None,
    allow_code_execution: Annotated[Flag, Option("--allow-code-execution",
                                                 help="run the programs that any model writes")] = None,
    truncate_prompts: Annotated[Flag, Option("--truncate-prompts",
                                             help="drop the start of prompts that are too long")] = None,
    share_prefix: Annotated[Flag, Option("--share-prefix/--no-share-prefix",
                                         help="read once what all prompts of a task begin with [yes]")] = None,
    cache_gb: Annotated[float | None, Option(metavar="GB", help="memory of the cache [half of the free]")] = None,
    compile: Annotated[Flag, Option("--compile", help="compile the forward: a slow start, then faster steps")] = None,
    texts: Annotated[Flag, Option("--texts/--no-texts", help="metrics of texts [if open-ended or sampled]")] = None,
    scorer: Annotated[Text, Option(metavar="MODEL", help="the model that scores texts [the model itself]")] = None,
    output: Annotated[Path | None, Option("-o", "--output", metavar="DIR", help="folder of the run [runs/…]")] = None,
) -> int:
    """Run strategies on tasks, or resume, and print the table.

    The same command resumes a run that was stopped. Exit code 3: some samples failed.
    """
    settings = _settings(context.params)
    try:
        from harness.cli.progress import watching
        from harness.cli.report import render
        from harness.run.runner import run

        with watching() as watcher:
            done = run(settings, watcher, shlex.join(["decodebench", *sys.argv[1:]]))
        page = render([done.folder], done.folder / "report")
    except KeyboardInterrupt:
        typer.echo("Stopped: the same command resumes.", err=True)
        return 130
    if done.failed:
        typer.echo(f"{done.failed} of {done.samples} samples failed: see {page}, or the records in "
                   f"{done.folder / 'records'} whose status is \"failed\".", err=True)
    return 3 if done.failed else 0


def _settings(options: dict[str, Any]) -> "RunConfig":
    """What was asked for, over what the configuration file says."""
    from harness.store.config import RunConfig

    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value
                             for key, value in options.items() if value not in (None, [], ())}
    config, files = given.pop("config", None), given.pop("task_files", ())
    if files:
        given["tasks"] = (*given.get("tasks", ()), *map(_task_of, files))
    return RunConfig.from_toml(config, **given) if config else RunConfig(**given)


def _task_of(path: Path) -> str:
    """The task that a file stands for."""
    spec = Spec.of("task_file", file=str(path))
    if not spec.readable:
        raise UserError(f"The name {path} has a comma or a plus sign where settings end; rename the file.")
    return str(spec)
