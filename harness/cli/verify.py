"""`decodebench verify`: test whether strategies keep their guarantees."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from harness.cli import complete
from harness.cli.options import Heads, Rope, Tasks, TemplateArgs, Tokenizer, check_names
from harness.errors import UserError
from harness.plugins.spec import separated
from harness.store.config import RunConfig

if TYPE_CHECKING:
    from harness.verify.results import Report

    Test = Callable[[RunConfig, Any, int, Callable[[str], None]], Report]

Text = str | None
Texts = list[str] | None
Number = int | None


OWN = {"temperature", "draws", "plain_url", "plain_fields", "tie", "output", "as_json"}  # the others are of RunConfig
DEFAULTS = {"limit": 2, "max_new_tokens": 48, "dtype": "float32"}
OF_A_SERVER = {"limit": 20, "dtype": "bfloat16"}


def command(
    context: typer.Context,
    strategies: Annotated[Texts, Option("-s", "--strategy", metavar="NAME[:k=v,…]", callback=separated,
                                        autocompletion=complete.strategies,
                                        help="repeatable [all with a guarantee]")] = None,
    model: Annotated[str, Option("-m", "--model", metavar="MODEL", show_default=False,
                                 help="nano, smollm2, a folder, a .gguf file or a hub id [nano]")] = "nano",
    draft: Annotated[Text, Option(metavar="MODEL", help="draft model for speculative decoding")] = None,
    heads: Heads = None,
    tokenizer: Tokenizer = None,
    template_args: TemplateArgs = None,
    rope: Rope = None,
    tasks: Tasks = None,
    limit: Annotated[Number, Option(metavar="N", help="first N examples of a task [2; of a server 20]")] = None,
    max_new_tokens: Annotated[Number, Option(metavar="N", help="maximum tokens of an answer [48; of a server the "
                                                               "task's]")] = None,
    temperature: Annotated[Texts, Option("--temperature", metavar="T[,p=P]",
                                         help="temperature and top-p mass to test; repeatable; 0 tests tokens only "
                                              "[1 and 0.7,p=0.9]")] = None,
    draws: Annotated[int, Option(metavar="N", help="sequences sampled per distribution [96]",
                                 show_default=False)] = 96,
    concurrency: Annotated[int, Option("--concurrency", "--batch-size", metavar="N", show_default=False,
                                       help="sequences decoded in one batch (continuous batching) [8]")] = 8,
    backend: Annotated[str, Option(metavar="NAME", help="transformers, vllm or openai (a server that drafts) "
                                                        "[transformers]", show_default=False)] = "transformers",
    base_url: Annotated[Text, Option(metavar="URL", help="the server that drafts")] = None,
    plain_url: Annotated[Text, Option(metavar="URL", help="a server with the same model that does not draft")] = None,
    plain_fields: Annotated[Texts, Option("--plain-field", metavar="NAME=VALUE",
                                          help="field of a request that turns drafts off; repeatable")] = None,
    key_variable: Annotated[Text, Option(metavar="NAME", help="environment variable with the servers' key")] = None,
    tie: Annotated[float | None, Option(metavar="X", help="largest difference of a server's log-probs that rounding "
                                                          "explains [0.5 in bfloat16, 0.001 in float32]")] = None,
    engine: Annotated[Texts, Option(metavar="NAME=VALUE", help="option of the backend; repeatable")] = None,
    dtype: Annotated[Text, Option(metavar="D", help="float32, bfloat16 or float16; only float32 tests exactly "
                                                    "[float32; of a server bfloat16]")] = None,
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

    At temperature 0 their tokens are compared with greedy's, above it with the model's exact distribution. A server
    that drafts (--backend openai) is compared with one that does not. Exit code 1: a guarantee is broken, or a sample
    failed.
    """
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in context.params.items()
             if key not in OWN and value not in (None, [], ())}
    try:
        return _verify(given, context.params)
    except KeyboardInterrupt:
        typer.echo("Stopped.", err=True)
        return 130


def _verify(given: dict[str, Any], own: Mapping[str, Any]) -> int:
    """Check what was given, the settings of a run and the command's `own` options, and write the report."""
    server = tuple(own[name] for name in ("plain_url", "plain_fields", "tie"))
    served, draws, output = given["backend"] == "openai", own["draws"], own["output"]
    if draws < 1:
        raise UserError(f"--draws must be at least 1, not {draws}.")
    if not served and any(option not in (None, [], ()) for option in server):
        raise UserError("--plain-url, --plain-field and --tie are for a server: give --backend openai, or leave them "
                        "out.")
    if output and output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; --output takes a folder.")
    config = RunConfig(**{**(OF_A_SERVER if served else DEFAULTS), **given})
    check_names(config)
    pairs = None if not own["temperature"] else [_pair(text) for text in own["temperature"]]
    return _report(_server_test(*server) if served else _strategy_test, config, pairs, draws, output, own["as_json"])


def _strategy_test(*given: Any) -> "Report":
    from harness.verify.checker import verify

    return verify(*given)


def _server_test(plain_url: str | None, plain_fields: Sequence[str] | None, tie: float | None) -> "Test":
    """Return the test of the server of a configuration against the same model without drafts."""
    def test(config: RunConfig, distributions: Any, draws: int, note: Callable[[str], None]) -> "Report":
        from harness.verify.servers import Without, verify_server

        return verify_server(config, Without(plain_url, tuple(plain_fields or ())), distributions, draws, tie, note)
    return test


def _report(test: "Test", config: RunConfig, pairs: list[tuple[float, float]] | None, draws: int, output: Path | None,
            as_json: Path | None) -> int:
    from rich.console import Console

    from harness.report import verify as shown
    from harness.store.files import replace_file
    from harness.verify.distribution import Distribution

    distributions = None if pairs is None else [Distribution(*pair) for pair in pairs if pair[0]]
    for folder in filter(None, (output, as_json and as_json.parent)):
        folder.mkdir(parents=True, exist_ok=True)  # fail before the tests run if it cannot be written
    with Console(stderr=True).status("Loading …") as status:
        report = test(config, distributions, draws, lambda text: status.update(f"Checking {text} …"))
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
