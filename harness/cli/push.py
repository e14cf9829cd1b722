"""`decodebench push`: publish a run on the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option


def command(
    run: Annotated[Path, Argument(metavar="DIR", help="a folder that `run` or `merge` wrote", show_default=False)],
    repo: Annotated[str, Argument(metavar="OWNER/NAME", help="the dataset to create or update", show_default=False)],
    private: Annotated[bool, Option("--private", help="a new dataset is private")] = False,
    prompts: Annotated[bool, Option("--prompts", help="publish prompts and expected answers, too")] = False,
) -> None:
    """Publish a run as a dataset with its tables and page.

    Prompts are left out unless you ask for them: they may belong to others.
    """
    from harness.export.hub import push
    from harness.store.folder import Store

    pushed = push(Store.open(run), repo, private=private, prompts=prompts)
    typer.echo(f"{pushed.files} files: {pushed.url}")
