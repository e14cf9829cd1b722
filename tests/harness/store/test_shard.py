"""Shards: what names them, and which Slurm job takes which."""

import pytest

from harness.errors import UserError
from harness.store.config import RunConfig
from harness.store.shard import Shard, of_array_job


def test_a_shard_has_a_number_and_a_folder() -> None:
    assert Shard.parse("2/8") == (2, 8)
    assert Shard.parse("2/8").folder == "shard-2-of-8"
    assert RunConfig(shard="1/1").shard is None


@pytest.mark.parametrize("text", ["0/8", "9/8", "8", "a/b", "-1/4", "1/0", ""])
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="must be like 2/8"):
        RunConfig(shard=text)


def test_a_job_of_a_slurm_array_takes_its_shard() -> None:
    job = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}
    assert of_array_job({}) is None
    assert of_array_job({**job, "SLURM_ARRAY_TASK_MIN": "0"}) == (4, 4)
    assert of_array_job({**job, "SLURM_ARRAY_TASK_MIN": "1"}) == (3, 4)
    with pytest.raises(UserError, match="--array=1-4"):
        of_array_job({**job, "SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_MIN": "1"})
