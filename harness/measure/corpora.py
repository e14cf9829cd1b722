"""Scores of a cell's answers as one corpus, from the sums of their statistics."""

from functools import partial
from typing import Any

import pandas as pd

from harness.measure.raw import sums_column
from harness.scoring.corpus import corpus_score
from harness.stats.bootstrap import sums_interval
from harness.store.schema import TaskEntry


def corpus_scores(task: TaskEntry, ok: pd.DataFrame) -> dict[str, Any]:
    """Return each corpus metric of a task over successful samples, with its interval, and `_how` it is computed.

    The interval is 95 % and resamples whole examples. Metrics without statistics, as in imported answers, are left out.
    """
    row = dict[str, Any]()
    for name, how in task.corpus.items():
        columns = [column for column in ok if str(column).startswith(sums_column(name))]
        counted = ok.dropna(subset=columns)
        if columns and len(counted):
            found = sums_interval(counted[columns], counted["example"], partial(corpus_score, name))
            row |= {f"corpus_{name}": found.mean, f"corpus_{name}_low": found.low, f"corpus_{name}_high": found.high,
                    f"corpus_{name}_how": how}
    return row
