"""`decodebench train-head`: train the head of a drafting method for a model."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from harness.cli import complete
from harness.cli.options import check_names
from harness.errors import UserError
from harness.plugins.spec import separated
from harness.store.config import RunConfig

if TYPE_CHECKING:
    from harness.laboratory.training import Point


class Schedule(StrEnum):
    """How a model is trained together with its head; the names of `harness.laboratory.tuning`."""

    two_stage = "two-stage"
    sine = "sine"


def command(
    head: Annotated[str, Argument(metavar="HEAD[:k=v,…]", show_default=False,
                                  help="strategy whose head is trained, with settings of its network")],
    model: Annotated[str, Option("-m", "--model", metavar="MODEL", show_default=False,
                                 help="model that the head is for [nano]")] = "nano",
    tasks: Annotated[list[str] | None, Option("-t", "--task", metavar="TASK", callback=separated,
                                              autocompletion=complete.tasks,
                                              help="task with the prompts; repeatable [nano's corpus]")] = None,
    limit: Annotated[int | None, Option(metavar="N", help="first N prompts of a task [all]")] = None,
    max_new_tokens: Annotated[int, Option(metavar="N", help="maximum tokens of an answer [192]",
                                          show_default=False)] = 192,
    steps: Annotated[int, Option(metavar="N", min=1, help="batches of 16 answers [800]", show_default=False)] = 800,
    rate: Annotated[float | None, Option(metavar="R", min=0.0, help="peak learning rate [by the model's width]")
                    ] = None,
    budget: Annotated[float, Option(metavar="GB", min=1e-6, help="hidden states of a layer on disk [2]",
                                    show_default=False)] = 2.0,
    dtype: Annotated[str | None, Option(metavar="D", help="float32, bfloat16 or float16 [as in run]")] = None,
    device: Annotated[str, Option(metavar="D", help="cpu, cuda, cuda:1, … [auto]", show_default=False)] = "auto",
    seed: Annotated[int, Option(metavar="N", help="of weights and batches [0]", show_default=False)] = 0,
    data: Annotated[Path | None, Option(metavar="DIR", help="data sets [$DECODEBENCH_DATA, then the hub]")] = None,
    licence: Annotated[str, Option(metavar="TEXT", help="licence of the weights, for the card [none]",
                                   show_default=False)] = "",
    tune: Annotated[Path | None, Option(metavar="DIR", help="train the model, too, and write it to DIR (Medusa-2)")
                    ] = None,
    schedule: Annotated[Schedule, Option(help="of --tune: the head alone first, or its weight rises",
                                         show_default=False)] = Schedule.two_stage,
    output: Annotated[Path | None, Option("-o", "--output", metavar="DIR", help="folder of the head [heads/HEAD]")
                      ] = None,
) -> int:
    """Train a head for drafting.

    A head learns from the model's own answers to the prompts of tasks. `-t task_file:file=FILE` has your own prompts;
    for nano they come from its corpus. The answers stay beside the head for other heads of the model, and a training
    that was stopped goes on.
    """
    config = RunConfig(model=model, tasks=tuple(tasks or ()), limit=limit, max_new_tokens=max_new_tokens, dtype=dtype,
                       device=device, seed=seed, data=data)
    check_names(config)
    if schedule is Schedule.sine and not tune:
        raise UserError("--schedule is about training the model, too: give --tune DIR.")
    from harness.laboratory.train_head import train_head
    from harness.laboratory.tuning import Tuning

    def tell(point: "Point") -> None:
        right = " ".join(f"{row[0]:.2f}" for row in point.ranks)
        say(f"step {point.step} of {steps}, {point.seconds:.0f} s: loss {point.loss:.3f}, right by depth {right}")

    def say(text: str) -> None:
        typer.echo(text, err=True)

    try:
        typer.echo(train_head(head, config, steps, rate or 0.0, output, int(budget * 1e9), licence, say, tell,
                              Tuning(tune, schedule.value) if tune else None))
    except KeyboardInterrupt:
        say("Stopped: the same command goes on.")
        return 130
    return 0
