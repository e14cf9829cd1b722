"""`decodebench plan-jobs`: print a job file that runs the shards of a run on several machines."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from harness.errors import UserError

SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}  # of the command: the options of `run` come along
SLURM = """#!/bin/bash
# Adapt partition, time and GPUs, then: sbatch jobs.sh
# The shards must see the same folder. Afterwards: {merge}
#SBATCH --job-name=decodebench
#SBATCH --array=1-{shards}
#SBATCH --output=decodebench-%A-%a.log
#SBATCH --time=24:00:00
#SBATCH --gpus-per-task=1
set -e
{run} --shard "$SLURM_ARRAY_TASK_ID/{shards}"
"""
SKYPILOT = """# In a checkout of decodebench, adapt the accelerator and the bucket, then: sky launch jobs.yaml
# Afterwards, with the bucket's contents in a folder: decodebench merge FOLDER
name: decodebench
num_nodes: {shards}
resources:
  accelerators: L4:1
file_mounts:
  /shards:
    name: decodebench-shards
    mode: MOUNT
workdir: .
setup: |
  pip install .
run: |
  set -e
  {run} --shard "$((SKYPILOT_NODE_RANK + 1))/$SKYPILOT_NUM_NODES"
  cp -r {output}/shard-* /shards/
"""
SHELL = """#!/bin/bash
# A process for each shard on this machine, each with a GPU of its own if there are any.
for shard in $(seq {shards}); do
  CUDA_VISIBLE_DEVICES=$((shard - 1)) {run} --quiet --shard "$shard/{shards}" &
done
wait
{merge}
"""


def command(
    context: typer.Context,
    slurm: Annotated[int | None, Option(metavar="N", min=1, help="file for sbatch: an array of N jobs")] = None,
    skypilot: Annotated[int | None, Option(metavar="N", min=1, help="file for sky launch: N nodes")] = None,
    shell: Annotated[int | None, Option(metavar="N", min=1, help="script: N processes on one machine")] = None,
) -> None:
    """Print a job file that runs the shards of a run.

    After --slurm N, --skypilot N or --shell N come the options of `run`; --output names the folder of all shards.
    """
    kinds = {SLURM: slurm, SKYPILOT: skypilot, SHELL: shell}
    chosen = [(template, shards) for template, shards in kinds.items() if shards]
    if len(chosen) != 1:
        raise UserError("Give one of --slurm N, --skypilot N and --shell N, then the options of run.")
    (template, shards), = chosen
    output = _checked(context)
    typer.echo(template.format(run=shlex.join(["decodebench", "run", *context.args]), shards=shards,
                               merge=shlex.join(["decodebench", "merge", str(output)]),
                               output=shlex.quote(str(output))), nl=False)


def _checked(context: typer.Context) -> Path:
    """Return the output folder of the options of `run`; raises the error that `run` would for wrong ones."""
    assert context.parent is not None
    run = context.parent.command.get_command(context.parent, "run")  # type: ignore[attr-defined]
    given = run.make_context("run", list(context.args), parent=context.parent).params
    if given["shard"]:
        raise UserError("Leave --shard out: each job gets its own.")
    if given["ray"]:
        raise UserError("Leave --ray out: each job runs its shard by itself.")
    if given["precision"]:
        raise UserError("Leave --precision out: it looks at all examples of a task, and each job has only some.")
    if not given["output"]:
        raise UserError("Give the folder of all shards with --output.")
    return Path(given["output"])


