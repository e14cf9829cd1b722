"""Options that several commands share."""

from typing import Annotated

from typer import Option

from harness.plugins.spec import separated

BatchSize = Annotated[int | None, Option("--concurrency", "--batch-size", metavar="N",
                                         help="sequences decoded in one batch (continuous batching) [1]")]
Tasks = Annotated[list[str] | None, Option("-t", "--task", metavar="TASK", callback=separated,
                                           help="repeatable [the embedded ones]")]
Tokenizer = Annotated[str | None, Option(metavar="MODEL", help="model whose tokenizer to use [the same]")]
TemplateArgs = Annotated[list[str] | None, Option("--template-arg", metavar="NAME=VALUE",
                                                  help="variable of the chat template; repeatable")]
