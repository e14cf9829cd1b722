"""Fits the thresholds of the strategy `sea_guide` to a model: those with the fewest slot errors on a task.

    python -m strategies.tools.sea_guide_fit [--model nano-seq2seq] [--task nano_record:split=dev] [--limit 200]

The task must count slot errors (`ser`). Give other problems than those of your report. All thresholds choose among the
same hypotheses of one beam search.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from harness import nano
from harness.engine.batching import run_batched
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import UserError
from harness.models.loading import Model
from harness.plugins.registry import TASKS
from harness.plugins.strategy import Request
from harness.plugins.task import Example, Task
from harness.run.loading import load_target
from harness.run.prepared_prompt import prepare
from harness.run.selection import choose_tasks, first_examples
from harness.store.config import RunConfig
from strategies.beam import Beam
from strategies.sea_guide import SeaGuide, Step, slot_spans, watched

TOGETHER, OFF = 8, 2.0
GRID = {"sure": (0.6, 0.8, 0.9, OFF), "likely": (0.3, 0.4, 0.5, 0.6, 0.8, OFF), "left": (0.1, 0.2, 0.3, OFF)}


class Candidates(NamedTuple):
    """The hypotheses of one problem, best first: their steps, and their slot errors among so many `slots`."""

    steps: list[list[Step]]
    errors: list[int]
    slots: int


@torch.inference_mode()
def candidates(model: Model, config: RunConfig, task: Task, example: Example, strategy: SeaGuide) -> Candidates:
    """Return the hypotheses of beam search for one problem."""
    prepared = prepare(config, model, model.engine.max_len, task, example, ())
    request = Request(prepared.prompt, prepared.max_tokens, PhiloxStream(0), model.eos, text=prepared.text,
                      source=prepared.source)
    with closing(Session(model.engine)) as session:
        session.begin(prepared.source)
        found = Beam.search(strategy, session, request)
        steps = watched(session, request, found, slot_spans(prepared.text, prepared.source))
    sums = [task.sums(example, [prepared.rule.answer(list(one.tokens))])["ser"] for one in found]
    return Candidates(steps, [errors for errors, _ in sums], sums[0][1])


def rate(some: Sequence[Candidates], strategy: SeaGuide) -> float:
    """Return the slot errors of the hypotheses that `strategy` chooses, in percent of all slots."""
    total = 0
    for one in some:
        missing = [strategy.marks(steps).count(False) for steps in one.steps]
        total += one.errors[min(range(len(missing)), key=missing.__getitem__)]
    return 100 * total / sum(one.slots for one in some)


def report(some: Sequence[Candidates], strategy: SeaGuide) -> list[str]:
    """Return lines with the slot error rate of beam search, of the defaults, of the best thresholds, and the least."""
    off = replace(strategy, sure=OFF, likely=OFF, left=OFF)
    rates = {(sure, likely, left): rate(some, replace(strategy, sure=sure, likely=likely, left=left))
             for sure, likely, left in itertools.product(*GRID.values())}
    best = min(rates, key=rates.__getitem__)
    least = 100 * sum(min(one.errors) for one in some) / sum(one.slots for one in some)
    chosen = ",".join(f"{name}={value:g}" for name, value in zip(GRID, best, strict=True))
    return [f"{len(some)} problems, slot errors in percent of all slots", f"{rate(some, off):6.2f} beam search",
            f"{rate(some, strategy):6.2f} sea_guide as it is", f"{rates[best]:6.2f} sea_guide:{chosen}",
            f"{least:6.2f} the best hypotheses"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Search, fit and print; the exit code is 2 when the input is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=nano.SEQ2SEQ, help="nano-seq2seq, a folder or a hub id")
    parser.add_argument("--task", default="nano_record:split=dev", help="task that counts slot errors")
    parser.add_argument("--data", default=None, help="folder with the files of tasks")
    parser.add_argument("--limit", type=int, default=200, help="problems")
    parser.add_argument("--width", type=int, default=10, help="beams")
    try:
        o = parser.parse_args(arguments)
        if "ser" not in TASKS.build(o.task).corpus:
            raise UserError(f"{o.task} counts no slot errors; give nano_record or e2e.")
        config = RunConfig(model=o.model, tasks=(o.task,), limit=o.limit, device="cpu", data=o.data)
        model, strategy = load_target(config), SeaGuide(width=o.width)
        if "source" not in model.engine.offers:
            raise UserError(f"{o.model} has no encoder; give nano-seq2seq, or another encoder-decoder model.")
        chosen = first_examples(choose_tasks(config)[0], model, o.limit)
        jobs = [partial(candidates, model, config, chosen.task, example, strategy) for example in chosen.examples]
        found = [one for one in run_batched([model.engine], jobs, TOGETHER) if isinstance(one, Candidates)]
        print(*report(found, strategy), sep="\n")
    except (UserError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
