"""Scores answers: at once, or later those whose programs were not allowed to run before."""

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from harness.errors import UserError
from harness.plugins.task import Example, Task
from harness.run.failures import error_text
from harness.run.plan import Plan
from harness.store.folder import Store
from harness.store.schema import CODE_NOT_RUN, Record, TaskEntry

PROGRAMS = 8  # generated programs that run concurrently
TOGETHER = 64  # records held in memory while their programs run


def scored(record: Record, task: Task, example: Example) -> tuple[Record, Exception | None]:
    """Return an answered record with its scores, or as a failed one and the error if the task cannot score it."""
    try:
        if task.given:
            scores, reason, sums = task.score_given(example, record.turns[-1].surprisal), "", {}
        else:
            answers = [turn.text for turn in record.turns]
            (scores, reason), sums = task.score_and_reason(example, answers), task.sums(example, answers)
    except Exception as error:  # scoring runs foreign code: its errors belong to the sample
        return record.model_copy(update={"status": "failed", "error": error_text(error), "turns": []}), error
    return record.model_copy(update={"scores": scores, "reason": reason, "sums": sums}), None


def late_tasks(plan: Plan, store: Store) -> set[str]:
    """Return the specs of the tasks whose programs may run now, but were not allowed to when answers were stored."""
    before = _not_run(store.manifest.tasks)
    return before - _not_run(plan.manifest.tasks)


def score_stored(plan: Plan, store: Store, specs: Collection[str]) -> None:
    """Score the stored answers to the tasks in `specs`, and write in the manifest that they are scored."""
    tasks = {task.spec(): (task, {one.id: one for one in examples}) for task, examples in plan.tasks
             if task.spec() in specs}

    def with_scores(record: Record) -> Record:
        if record.status == "failed" or record.task not in tasks:
            return record
        task, examples = tasks[record.task]
        return scored(record, task, examples[record.example])[0]

    def change(records: Iterator[Record]) -> Iterator[Record]:
        with ThreadPoolExecutor(PROGRAMS) as pool:
            while some := list(islice(records, TOGETHER)):
                yield from pool.map(with_scores, some)

    store.replace_records(change)
    old, new = store.manifest, plan.manifest
    sandbox = {name: new.environment[name] for name in ("sandbox",) if name in new.environment}
    store.replace_manifest(old.model_copy(update={
        "tasks": [task.model_copy(update={"unscored": None}) if task.spec in specs else task for task in old.tasks],
        "environment": old.environment | sandbox, "warnings": list(dict.fromkeys([*old.warnings, *new.warnings]))}))


def refuse_unscored(plan: Plan, store: Store, left: Collection[str]) -> None:
    """Raise `UserError` if a task in `left` was scored so far, but its programs are not allowed to run any more."""
    if specs := (_not_run(plan.manifest.tasks) - _not_run(store.manifest.tasks)) & set(left):
        raise UserError(f"{store.folder} has scored the programs of {', '.join(sorted(specs))}, and the rest would "
                        "have no score: give --allow-code-execution again, or choose another folder with -o.")


def _not_run(tasks: list[TaskEntry]) -> set[str]:
    return {task.spec for task in tasks if task.unscored == CODE_NOT_RUN}
