"""The order of a run: cells of samples that are decoded together, strategies interleaved in each block of examples."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, zip_longest

from harness.engine.random_stream import shuffled
from harness.plugins.strategy import Strategy
from harness.plugins.task import Example, Task
from harness.store.config import RunConfig
from harness.store.shard import Shard

BLOCK = 4  # examples of a block per sequence of a batch, so that rows are refilled and few blocks end half empty
Tasks = tuple[tuple[Task, tuple[Example, ...]], ...]
Block = tuple[Task, tuple[Example, ...], int]
"""A task, examples that all strategies decode on one machine, and the number of the block in the run."""


@dataclass(frozen=True)
class Cell:
    """Samples to decode together: one strategy, one sample index, and the examples of one block."""

    task: Task
    examples: tuple[Example, ...]
    strategy: Strategy
    sample: int
    repeat: int
    block: int
    order: int

    def at(self, example: Example) -> Strategy:
        """Return the strategy, at the temperature of `example` if the task sets one."""
        return self.strategy if example.temperature is None else self.strategy.at(example.temperature)


def cells(config: RunConfig, tasks: Tasks, strategies: Sequence[Strategy], side_by_side: bool) -> Iterator[Cell]:
    """Return all cells in the order of the run: block by block, with the strategies of each in seeded random order.

    The tasks take turns, so that each of them has figures early. Without `side_by_side`, all cells of one strategy come
    before those of the next.
    """
    if side_by_side:
        return _blocks(config, tasks, strategies)
    return iter(sorted(_blocks(config, tasks, strategies), key=lambda cell: strategies.index(cell.strategy)))


def _blocks(config: RunConfig, tasks: Tasks, strategies: Sequence[Strategy]) -> Iterator[Cell]:
    """Yield the cells of the first block of each task, then those of the second block of each, and so on.

    Blocks are numbered task by task, so that a run resumes with the same numbers whatever the order of its blocks was.
    A shard of a run has some of its blocks, with the same numbers. With a precision they come in the order of a hash,
    because the first ones of a file may be easier than the rest.
    """
    numbers = count()
    shard = Shard.parse(config.shard or "1/1")
    for repeat in range(config.repeats):
        blocks = [[(task, group, next(numbers)) for group in _groups(config, examples)] for task, examples in tasks]
        blocks = [sorted(of_task, key=_hash) if config.precision else of_task for of_task in _of_shard(blocks, shard)]
        for task, group, block in filter(None, chain.from_iterable(zip_longest(*blocks))):
            order = shuffled(range(len(strategies)), config.seed, repeat, task.spec(), group[0].id)
            for rank, index in enumerate(order):
                for sample in range(config.samples):
                    yield Cell(task, group, strategies[index], sample, repeat, block, rank)


def _of_shard(blocks: list[list[Block]], shard: Shard) -> list[list[Block]]:
    """Return the blocks of a shard, by task: in the order of a hash of their first examples, they are dealt in turn."""
    order = {block[2]: place for place, block in enumerate(chain.from_iterable(
        sorted(of_task, key=_hash) for of_task in blocks))}
    return [[block for block in of_task if order[block[2]] % shard.shards == shard.number - 1] for of_task in blocks]


def _hash(block: Block) -> str:
    task, examples, _ = block
    return hashlib.sha256(f"{task.spec()}\0{examples[0].id}".encode()).hexdigest()


def _groups(config: RunConfig, examples: tuple[Example, ...]) -> list[tuple[Example, ...]]:
    """Return the examples of each block of a task; without a batch size, all of them are one block."""
    size = len(examples) if config.batch_size is None else config.batch_size * (BLOCK if config.batch_size > 1 else 1)
    return [examples[start:start + size] for start in range(0, len(examples), size)]
