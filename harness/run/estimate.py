"""How long a run may take, judged by a few tokens of the baseline; nothing is written."""

from dataclasses import dataclass, replace

from harness.backends.trace import Clock
from harness.plugins.registry import STRATEGIES
from harness.run.cells import Cell
from harness.run.plan import Plan
from harness.run.runner import Runner
from harness.store.schema import Record, TaskEntry

TRIED = 16  # tokens that the baseline writes on one example of each task


@dataclass(frozen=True)
class Estimate:
    """The seconds of a run whose answers all reach their limit at the baseline's speed, or why they are unknown."""

    seconds: float = 0.0
    problem: str = ""


def estimate(plan: Plan, clock: Clock) -> Estimate:
    """Decode a few tokens of the first example of each task with the baseline, and return the time for all samples."""
    baseline = STRATEGIES.build(plan.manifest.baseline)
    entries = [entry.model_copy(update={"unscored": "not scored"}) for entry in plan.manifest.tasks]
    short = replace(plan, config=replace(plan.config, max_new_tokens=TRIED), strategies=(baseline,),
                    manifest=plan.manifest.model_copy(update={"tasks": entries}))
    runner, samples, seconds = Runner(short, clock), per_task(plan), 0.0
    runner.warm_up()
    for (task, examples), entry in zip(plan.tasks, plan.manifest.tasks, strict=True):
        (record,) = runner.decode(Cell(task, examples[:1], baseline, 0, 0, 0, 0), examples[:1])
        if record.error:
            return Estimate(problem=record.error)
        seconds += samples[task.spec()] * _at_most(record, entry)
    return Estimate(seconds)


def per_task(plan: Plan) -> dict[str, int]:
    """Return the number of samples of each task."""
    counts = {task.spec(): 0 for task, _ in plan.tasks}
    for cell in plan.cells():
        counts[cell.task.spec()] += len(cell.examples)
    return counts


def _at_most(record: Record, task: TaskEntry) -> float:
    """Return the seconds of an answer like this one if each of its turns reached the task's limit."""
    total = 0.0
    for turn in record.turns:
        first, *later = turn.steps.seconds or [0.0]
        total += first + (sum(later) / len(later) if later else first) * (task.max_new_tokens - 1)
    return total
