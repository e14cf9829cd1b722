"""Options that several commands share."""

from typing import Annotated

from typer import Option

BatchSize = Annotated[int | None, Option("--concurrency", "--batch-size", metavar="N",
                                         help="sequences decoded in one batch (continuous batching) [1]")]
