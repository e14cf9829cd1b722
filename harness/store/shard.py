"""A shard of a run: which share of its blocks one machine decodes, `2/8` for the second of eight."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from harness.errors import UserError


class Shard(NamedTuple):
    """The shard `number` of a run of `shards`, from 1."""

    number: int
    shards: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Return the shard that `2/8` names; raises `UserError` for anything else."""
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        shard = cls(int(found[1]), int(found[2])) if found else cls(0, 0)
        if not 1 <= shard.number <= shard.shards:
            raise UserError(f"--shard must be like 2/8, from 1/8 to 8/8, not '{text}'.")
        return shard

    @property
    def folder(self) -> str:
        """The name of its folder: `shard-2-of-8`."""
        return f"shard-{self.number}-of-{self.shards}"


def shards_in(folder: Path) -> set[int]:
    """Return into how many shards the runs in a folder are split: one number, unless several runs share the folder."""
    names = (re.fullmatch(r"shard-\d+-of-(\d+)", path.name) for path in folder.glob("shard-*"))
    return {int(found[1]) for found in names if found}


def of_array_job(environment: Mapping[str, str]) -> Shard | None:
    """Return the shard of a job in a Slurm array, None outside one; raises `UserError` for an array with gaps."""
    task, count = environment.get("SLURM_ARRAY_TASK_ID"), environment.get("SLURM_ARRAY_TASK_COUNT")
    if not task or not count:
        return None
    number = int(task) - int(environment.get("SLURM_ARRAY_TASK_MIN", 0)) + 1
    if number > int(count):
        raise UserError(f"The Slurm array has gaps: submit it as --array=1-{count}, or give --shard.")
    return Shard(number, int(count))
