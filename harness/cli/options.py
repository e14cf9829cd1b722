"""Options that several commands share, and the check of the names in them."""

from typing import TYPE_CHECKING, Annotated

from typer import Option

from harness.cli import complete
from harness.plugins.spec import separated

if TYPE_CHECKING:
    from harness.store.config import RunConfig

BatchSize = Annotated[int | None, Option("--concurrency", "--batch-size", metavar="N",
                                         help="sequences decoded in one batch (continuous batching) [1]")]
Tasks = Annotated[list[str] | None, Option("-t", "--task", metavar="TASK", callback=separated,
                                           autocompletion=complete.tasks, help="repeatable [the embedded ones]")]
Tokenizer = Annotated[str | None, Option(metavar="MODEL", help="model whose tokenizer to use [the same]")]
Heads = Annotated[list[str] | None, Option("--head", metavar="DIR", help="trained head of the model; repeatable")]
TemplateArgs = Annotated[list[str] | None, Option("--template-arg", metavar="NAME=VALUE",
                                                  help="variable of the chat template; repeatable")]
DeviceMap = Annotated[str | None, Option(metavar="KIND", help="spread the model over all GPUs: auto, balanced or "
                                                              "sequential")]
Budget = Annotated[str | None, Option(metavar="TIME", help="begin no block that would end later, such as 30m")]
Baseline = Annotated[str | None, Option(metavar="NAME[:k=v,…]", autocompletion=complete.strategies,
                                        help="strategy that the others are compared with [greedy]")]
Precision = Annotated[float | None, Option(metavar="P", help="a strategy leaves a task when its score is known to "
                                                             "within ±P, such as 0.02")]
Rope = Annotated[str | None, Option("--rope", metavar="RULE:FACTOR[:LENGTH]",
                                    help="scale the model's rotary positions, such as yarn:4")]
Share = Annotated[str | None, Option("--shard", metavar="I/N", help="share of the examples [of a Slurm array job]")]
Ray = Annotated[str | None, Option("--ray", metavar="[ADDRESS]", help="run on a Ray cluster: auto, HOST:PORT, or one "
                                                                      "started here")]
Shards = Annotated[str | None, Option("--shards", metavar="N", help="parts of a run on a Ray cluster [auto]")]


def check_names(config: "RunConfig") -> None:
    """Raise `UserError` for a misspelt strategy, knob, task, preset, model or dtype, before anything slow is imported.
    """
    from harness.models.rope import Scaling
    from harness.models.source import check_dtype, located, split_dtype
    from harness.plugins.declared import check_specs
    from harness.plugins.registry import add_plugin
    from harness.run.presets import preset

    for path in config.plugins:
        add_plugin(path)
    if config.rope:
        Scaling.parse(config.rope)
    if config.preset:
        preset(config.preset, draft=False)
    check_specs((*config.strategies, config.baseline), config.tasks)
    if config.backend == "transformers":  # others have names of their own
        if config.dtype:
            check_dtype(config.dtype)
        for model in filter(None, (config.model, config.draft, config.tokenizer, config.scorer)):
            located(split_dtype(model)[0])
