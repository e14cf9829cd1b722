"""Check that answers do not depend on the batch size: in float32 they may differ only at ties.

`python -m benchmarks.same [--limit 40] [--concurrency 1 4 32]`: every strategy on every embedded task at each batch
size; prints the number of answers that equal those of the first, and for each other one its first different token and
the difference of the two tokens' logits there. Exits 1 when such a difference is larger than that of a tie (1e-3).
"""

import argparse
import sys
import time

import torch
from rich.console import Console
from rich.table import Table

from harness.run.divergence import first_difference, margin
from harness.run.plan import Plan, make
from harness.run.runner import Runner
from harness.store.config import RunConfig
from harness.store.schema import Record

TIE = 1e-3


def answers(limit: int, concurrency: int) -> tuple[Plan, dict[tuple[str, str, str, int, int], Record]]:
    """Return the plan and the records of a run with these settings."""
    plan = make(RunConfig(limit=limit, concurrency=concurrency, threads=1, device="cpu"), "benchmark")
    runner = Runner(plan, time.perf_counter)
    return plan, {record.key: record for cell in plan.cells() for record in runner.decode(cell, cell.examples)}


@torch.inference_mode()
def main() -> None:
    """Print the table of equal answers and a line for each other one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 32])
    options, console = parser.parse_args(), Console(width=120)
    plan, base = answers(options.limit, options.concurrency[0])
    examples = {(task.spec(), example.id): (task, example) for task, all_ in plan.tasks for example in all_}
    table, widest = Table("strategy", *(f"{n} against {options.concurrency[0]}" for n in options.concurrency[1:]),
                          box=None), 0.0
    cells: dict[str, list[str]] = {strategy.spec(): [] for strategy in plan.strategies}
    for concurrency in options.concurrency[1:]:
        _, records = answers(options.limit, concurrency)
        for strategy in plan.strategies:
            own = [record for record in records.values() if record.strategy == strategy.spec()]
            differing = [(record, at) for record in own if (at := first_difference(record, base[record.key]))]
            cells[strategy.spec()].append(f"{len(own) - len(differing)} of {len(own)}")
            for record, at in differing:
                gap = margin(plan, *examples[record.task, record.example], record, base[record.key], *at)
                widest = max(widest, gap if gap is not None else 1.0)
                console.print(f"{strategy.name} on {record.task}, {record.example}, batch size {concurrency}: differs "
                              f"at token {at[1]} of turn {at[0]}, logits {gap} apart")
    for spec, row in cells.items():
        table.add_row(spec, *row)
    console.print(table)
    sys.exit(widest > TIE)


if __name__ == "__main__":
    main()
