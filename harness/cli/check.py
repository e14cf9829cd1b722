"""`decodebench check`: compare a run with a baseline; fails if a rule is broken."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from harness.errors import UserError

if TYPE_CHECKING:
    from harness.regression.snapshot import Snapshot
    from harness.store.folder import Store


def command(
    run: Annotated[Path, Argument(metavar="DIR", help="a folder that `run` wrote", show_default=False)],
    baseline: Annotated[Path | None, Option(metavar="FILE|DIR", help="file from --write, or a run folder")] = None,
    rules: Annotated[Path | None, Option(metavar="FILE.toml", help="additional rules")] = None,
    confirm: Annotated[Path | None, Option(metavar="DIR", help="second, identical run: a speed rule must be broken in "
                                                               "both")] = None,
    junit: Annotated[Path | None, Option(metavar="FILE", help="write JUnit XML")] = None,
    markdown: Annotated[Path | None, Option(metavar="FILE", help="write Markdown for a pull request")] = None,
    as_json: Annotated[Path | None, Option("--json", metavar="FILE", help="write every finding as JSON")] = None,
    benchmark: Annotated[Path | None, Option(metavar="FILE", help="write figures for github-action-benchmark")] = None,
    write: Annotated[Path | None, Option(metavar="FILE", help="write this run as a new baseline instead")] = None,
) -> int:
    """Compare a run with a baseline; exit code 1 if a rule is broken.

    The default rules: no sample is missing or failed; counts, tokens and scores are unchanged; lossless strategies are
    lossless; no quality is significantly worse.
    """
    if (baseline is None) == (write is None):
        raise UserError("Give either --baseline FILE, to check the run, or --write FILE, to make it a baseline.")
    from harness.regression.snapshot import Snapshot
    from harness.store.files import replace_file
    from harness.store.folder import Store

    store = Store.open(run)
    snapshot = Snapshot.of(store)
    if write:
        missing = [key for key, due in snapshot.samples_due().items() if len(snapshot.cell(*key)) < due]
        if missing:
            raise UserError(f"{run} is not finished ({missing[0][1]} on {missing[0][0]}): repeat its `run` command "
                            "to finish it.")
        typer.echo(f"Baseline: {replace_file(write, snapshot.text())}")
        return 0
    assert baseline is not None
    return _check(store, snapshot, baseline, rules, confirm, {
        "junit": junit, "markdown": markdown, "json": as_json, "benchmark": benchmark})


def _check(store: "Store", run: "Snapshot", baseline: Path, rules: Path | None, confirm: Path | None,
           files: dict[str, Path | None]) -> int:
    from rich.console import Console

    from harness.export import github_benchmark
    from harness.measure.summary import summarise
    from harness.regression.check import check
    from harness.regression.rules import read
    from harness.regression.snapshot import Snapshot
    from harness.report import check as shown
    from harness.store.files import replace_file

    report = check(run, Snapshot.open(baseline), read(rules), (str(store.folder), str(baseline)), store.divergences(),
                   Snapshot.open(confirm) if confirm else None)
    Console(highlight=False).print(shown.terminal(report))
    texts = {"junit": lambda: shown.junit(report), "markdown": lambda: shown.markdown(report),
             "json": lambda: report.model_dump_json(indent=1) + "\n",
             "benchmark": lambda: github_benchmark.text(summarise(store))}
    for name, path in files.items():
        if path:
            replace_file(path, texts[name]())
    return 1 if report.broken else 0
