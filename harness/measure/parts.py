"""Summarises the sub-tasks of a task, each alone and all together."""

import pandas as pd

from harness.measure.raw import Raw
from harness.measure.summary import summarise
from harness.store.folder import Store

OVERALL = "overall"


def part_table(store: Store, raw: Raw) -> pd.DataFrame:
    """Return the rows of `summarise` for each sub-task, in the order of the examples, and for all of them (`overall`).

    The table covers tasks with several sub-tasks; `part` is the name of the sub-task.
    """
    frames = []
    for task in (task for task in store.manifest.tasks if task.sub_tasks is not None):
        alone = Store(store.folder, store.manifest.model_copy(update={"tasks": [task]}))
        rows = raw.samples[raw.samples["task"] == task.spec]
        parts = dict(iter(rows.groupby(rows["category"].replace(task.sub_tasks), sort=False)))
        for part, of_part in {**parts, OVERALL: rows}.items() if len(parts) > 1 else ():
            frames.append(summarise(alone, Raw(of_part, {})).assign(part=part))
    return pd.concat(frames, ignore_index=True).drop(columns=["parted", "margin"]) if frames else pd.DataFrame()
