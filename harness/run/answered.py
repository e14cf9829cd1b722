"""Runs of strategies inside of a study."""

import re
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.plugins.study import Setting
from harness.run.runner import run
from harness.run.told import Told
from harness.store.config import RunConfig
from harness.store.folder import Store
from harness.store.schema import TaskEntry

if TYPE_CHECKING:
    import pandas as pd

BATCH = 16  # sequences of a batch


def answered(setting: Setting, study: str, label: str, **changes: Any) -> Store:
    """Run with changes of the study's settings, or resume that run, in the folder `label` of the study.

    Raises `UserError` if answers failed.
    """
    folder = setting.folder / re.sub(r"[^A-Za-z0-9.-]+", "-", label).strip("-")
    config = RunConfig(**vars(setting.config) | {"concurrency": BATCH, "texts": False, "output": folder} | changes)
    outcome = run(config, Told(label, setting.say), f"decodebench study {study}")
    if outcome.failed:
        raise UserError(f"{study}: {outcome.failed} answers of {label} failed; see `decodebench report "
                        f"{outcome.folder}`.")
    return Store.open(outcome.folder)


def score_column(study: str, task: TaskEntry, samples: "pd.DataFrame") -> str:
    """Return the column of `samples` with the headline score of a task; raises `UserError` if it has none."""
    if (column := f"score_{task.headline}") not in samples:
        raise UserError(f"{study} needs tasks with a score, and {task.spec} has none: choose others with -t.")
    return column
