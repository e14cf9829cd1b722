"""Worker processes that train one model together: each on its own part of the data, one thread each."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn


@dataclass(frozen=True)
class Team:
    """Worker `rank` of `size`; the first one reports and saves."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """Whether this worker reports and saves for all."""
        return self.rank == 0

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Replace `values` by their sum over the workers."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def agreed(self, value: float) -> float:
        """Return the first worker's `value`, so that all stop at the same step although their clocks differ."""
        shared = torch.tensor([value], dtype=torch.float64)
        if self.size > 1:
            distributed.broadcast(shared, src=0)
        return shared.item()


def launch(work: Callable[[Team], None], workers: int) -> None:
    """Call `work` in each of `workers` processes, or here if there is one; a GPU needs one."""
    if torch.cuda.is_available():
        work(Team(device="cuda"))
    elif workers == 1:
        torch.set_num_threads(1)
        work(Team())
    else:
        with tempfile.TemporaryDirectory() as folder:
            meeting = f"file://{os.path.join(folder, 'meeting')}"
            spawn(_join, args=(work, workers, meeting), nprocs=workers)  # type: ignore[no-untyped-call]


def _join(rank: int, work: Callable[[Team], None], workers: int, meeting: str) -> None:
    torch.set_num_threads(1)
    patience = timedelta(hours=1)  # one worker may still write its share of the corpus
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=workers, timeout=patience)
    try:
        work(Team(rank, workers))
    finally:
        distributed.destroy_process_group()
