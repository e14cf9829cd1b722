"""The order of a run: cells of samples that are decoded together, strategies interleaved in each block of examples."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.engine.random_stream import shuffled
from harness.plugins.strategy import Strategy
from harness.plugins.task import Example, Task
from harness.store.config import RunConfig

BLOCK = 4  # examples of a block per sequence of a batch, so that rows are refilled and few blocks end half empty
Tasks = tuple[tuple[Task, tuple[Example, ...]], ...]


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

    Without `side_by_side`, all cells of one strategy come before those of the next.
    """
    if side_by_side:
        return _blocks(config, tasks, strategies)
    return iter(sorted(_blocks(config, tasks, strategies), key=lambda cell: strategies.index(cell.strategy)))


def block_size(config: RunConfig, examples: int) -> int:
    """Return the number of examples in one block of a task."""
    if config.batch_size is None:
        return examples
    return config.batch_size * (BLOCK if config.batch_size > 1 else 1)


def _blocks(config: RunConfig, tasks: Tasks, strategies: Sequence[Strategy]) -> Iterator[Cell]:
    block = 0
    for repeat in range(config.repeats):
        for task, examples in tasks:
            size = block_size(config, len(examples))
            for start in range(0, len(examples), size):
                group = examples[start:start + size]
                order = shuffled(range(len(strategies)), config.seed, repeat, task.spec(), group[0].id)
                for rank, index in enumerate(order):
                    for sample in range(config.samples):
                        yield Cell(task, group, strategies[index], sample, repeat, block, rank)
                block += 1
