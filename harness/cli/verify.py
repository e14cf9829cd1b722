"""`decodebench verify`: test whether strategies keep their guarantees."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from harness.cli import complete
from harness.cli.options import Heads, Tasks, TemplateArgs, Tokenizer, check_names
from harness.errors import UserError
from harness.plugins.spec import separated
from harness.store.config import RunConfig

Text = str | None
Texts = list[str] | None
Number = int | None


def command(
    strategies: Annotated[Texts, Option("-s", "--strategy", metavar="NAME[:k=v,…]", callback=separated,
                                        autocompletion=complete.strategies,
                                        help="repeatable [all with a guarantee]")] = None,
    model: Annotated[str, Option("-m", "--model", metavar="MODEL", show_default=False,
                                 help="nano, smollm2, a folder, a .gguf file or a hub id [nano]")] = "nano",
    draft: Annotated[Text, Option(metavar="MODEL", help="draft model for speculative decoding")] = None,
    heads: Heads = None,
    tokenizer: Tokenizer = None,
    template_args: TemplateArgs = None,
    tasks: Tasks = None,
    limit: Annotated[int, Option(metavar="N", help="first N examples of a task [2]", show_default=False)] = 2,
    max_new_tokens: Annotated[int, Option(metavar="N", help="maximum tokens of an answer [48]",
                                          show_default=False)] = 48,
    temperature: Annotated[Texts, Option("--temperature", metavar="T[,p=P]",
                                         help="temperature and top-p mass to test; repeatable; 0 tests tokens only "
                                              "[1 and 0.7,p=0.9]")] = None,
    draws: Annotated[int, Option(metavar="N", help="sequences sampled per distribution [96]",
                                 show_default=False)] = 96,
    concurrency: Annotated[int, Option("--concurrency", "--batch-size", metavar="N", show_default=False,
                                       help="sequences decoded in one batch (continuous batching) [8]")] = 8,
    backend: Annotated[str, Option(metavar="NAME", help="transformers or vllm [transformers]",
                                   show_default=False)] = "transformers",
    engine: Annotated[Texts, Option(metavar="NAME=VALUE", help="option of the backend; repeatable")] = None,
    dtype: Annotated[str, Option(metavar="D", help="float32, bfloat16 or float16; only float32 tests exactly [float32]",
                                 show_default=False)] = "float32",
    device: Annotated[str, Option(metavar="D", help="cpu, cuda, cuda:1, … [auto]", show_default=False)] = "auto",
    threads: Annotated[Number, Option(metavar="N", help="CPU threads [1 for a small model]")] = None,
    seed: Annotated[int, Option(metavar="N", help="seed of sampling [0]", show_default=False)] = 0,
    data: Annotated[Path | None, Option(metavar="DIR", help="data sets [$DECODEBENCH_DATA, then the hub]")] = None,
    plugins: Annotated[list[Path] | None, Option("--plugin", metavar="FILE.py",
                                                 help="file with your own strategy or task; repeatable")] = None,
    output: Annotated[Path | None, Option("-o", "--output", metavar="DIR",
                                          help="folder for verify.json and verify.html")] = None,
    as_json: Annotated[Path | None, Option("--json", metavar="FILE", help="write the results as JSON")] = None,
) -> int:
    """Test that strategies keep their guarantees.

    At temperature 0 their tokens are compared with greedy's, above it with the model's exact distribution. Exit code 1:
    a guarantee is broken, or a sample failed.
    """
    if draws < 1:
        raise UserError(f"--draws must be at least 1, not {draws}.")
    if backend == "openai":
        raise UserError("verify cannot test a server: use --backend transformers or vllm.")
    if output and output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; --output takes a folder.")
    config = RunConfig(model=model, draft=draft, heads=tuple(heads or ()), tokenizer=tokenizer,
                       template_args=tuple(template_args or ()), strategies=tuple(strategies or ()),
                       tasks=tuple(tasks or ()), backend=backend, engine=tuple(engine or ()), limit=limit,
                       concurrency=concurrency, max_new_tokens=max_new_tokens, seed=seed, dtype=dtype, device=device,
                       threads=threads, data=data, plugins=tuple(plugins or ()))
    check_names(config)
    pairs = None if not temperature else [_pair(text) for text in temperature]
    try:
        return _report(config, pairs, draws, output, as_json)
    except KeyboardInterrupt:
        typer.echo("Stopped.", err=True)
        return 130


def _report(config: RunConfig, pairs: list[tuple[float, float]] | None, draws: int, output: Path | None,
            as_json: Path | None) -> int:
    from rich.console import Console

    from harness.report import verify as shown
    from harness.store.files import replace_file
    from harness.verify.checker import verify
    from harness.verify.distribution import Distribution

    distributions = None if pairs is None else [Distribution(*pair) for pair in pairs if pair[0]]
    for folder in filter(None, (output, as_json and as_json.parent)):
        folder.mkdir(parents=True, exist_ok=True)  # fail before the tests run if it cannot be written
    with Console(stderr=True).status("Loading …") as status:
        report = verify(config, distributions, draws, lambda text: status.update(f"Checking {text} …"))
    Console().print(shown.terminal(report))
    text = report.model_dump_json(indent=1) + "\n"
    for path in filter(None, (as_json, output and output / "verify.json")):
        replace_file(path, text)
    if output:
        typer.echo(f"Report: {replace_file(output / 'verify.html', shown.html(report))}")
    return 0 if report.ok else 1


def _pair(text: str) -> tuple[float, float]:
    """Parse `0.7,p=0.9` to temperature and top-p mass; raises `UserError` for anything else."""
    temperature, _, top_p = text.partition(",")
    try:
        pair = float(temperature), float(top_p.strip().removeprefix("p=")) if top_p else 1.0
    except ValueError:
        raise UserError(f"Write --temperature as T or T,p=P, such as 0.7,p=0.9, not '{text}'.") from None
    if not (0 <= pair[0] <= 10 and 0 < pair[1] <= 1):
        raise UserError(f"--temperature must be from 0 to 10, and p above 0 and at most 1, not '{text}'.")
    return pair
