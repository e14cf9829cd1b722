"""Options that several commands share."""

from typing import Annotated

from typer import Option

BatchSize = Annotated[int | None, Option("--concurrency", "--batch-size", metavar="N",
                                         help="sequences decoded in one batch (continuous batching) [1]")]
Tokenizer = Annotated[str | None, Option(metavar="MODEL", help="model whose tokenizer to use [the same]")]
TemplateArgs = Annotated[list[str] | None, Option("--template-arg", metavar="NAME=VALUE",
                                                  help="variable of the chat template; repeatable")]
