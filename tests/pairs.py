"""Pairs of runs with planted differences for the tests of `compare`: random times, no model."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness.store.folder import Store
from harness.store.schema import Manifest, Record
from tests.runs import manifest, record, strategy, task, turn, write

SPECS = ("greedy", "speculative:k=4,temperature=0", "momentum:k=5")
COST = {"greedy": 1.0, "speculative:k=4,temperature=0": 0.55, "momentum:k=5": 1.05}
SLOW = SPECS[1]


@dataclass(frozen=True)
class Planted:
    """The differences of a run: `machine` and `slower` (of one strategy) are factors of time.

    `wrong` examples of momentum have another last token and no score, `wasteful` ones of the slow strategy one forward
    more, `failed` ones of it an error.
    """

    seed: int = 0
    machine: float = 1.0
    slower: float = 1.0
    wrong: tuple[int, ...] = ()
    wasteful: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    noise: float = 0.04
    examples: int = 40
    tasks: tuple[str, ...] = ("math",)
    specs: tuple[str, ...] = SPECS
    changes: dict[str, object] = field(default_factory=dict)


def described(planted: Planted) -> Manifest:
    """Return the manifest of a run; `changes` replace its fields."""
    made = manifest([strategy(spec) for spec in planted.specs],
                    [task(name, examples=planted.examples) for name in planted.tasks])
    return made.model_copy(update=planted.changes)


def records(planted: Planted) -> list[Record]:
    """Return samples with lengths and difficulty by example, and noise by seed."""
    rng, samples = np.random.default_rng(planted.seed), list[Record]()
    for name in planted.tasks:
        for number in range(planted.examples):
            own = np.random.default_rng(number)  # a prompt has the same properties in every run
            length, hard = int(own.integers(8, 30)), math.exp(0.12 * own.normal())
            for spec in planted.specs:
                factor = COST[spec] * hard * planted.machine * (planted.slower if spec == SLOW else 1)
                times = 0.01 * factor * np.exp(planted.noise * rng.normal()) * np.ones(length)
                wrong = spec == SPECS[2] and number in planted.wrong
                ids = [*range(length - 1), 999 if wrong else length - 1]
                extra = [1] if spec == SLOW and number in planted.wasteful else []
                words = " ".join(f"word{i}" for i in ids)
                one = turn([1] * length, times.tolist(), ids=ids, text=words)
                if extra:
                    steps = one.steps.model_copy(update={"forwards": [2, *one.steps.forwards[1:]]})
                    one = one.model_copy(update={"steps": steps})
                error = "RuntimeError: planted" if spec == SLOW and number in planted.failed else None
                samples.append(record(name, f"e{number:02}", spec, [] if error else [one],
                                    None if error else float(number % 3 > 0 and not wrong), error=error))
    return samples


def run(folder: Path, planted: Planted) -> Store:
    """Write a planted run."""
    return write(folder, described(planted), records(planted))
