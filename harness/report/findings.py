"""What a run proves on each task: only what Holm's corrected p-values carry is called faster, better or worse."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pandas as pd

from harness.measure.significance import FEW, SURE
from harness.measure.summary import problems
from harness.plugins.task_names import task_names
from harness.report.badges import kept, tie_of
from harness.report.tables import row_labels
from harness.stats.power import clusters_needed
from harness.store.schema import Manifest

LOOKS = 1.05  # speed-ups from which an unproven one is worth more problems


@dataclass(frozen=True)
class Finding:
    """The rows of one task's summary that matter, each with its `label`.

    `keeping` are the methods that keep the baseline's answers, the fastest first, and `proven` those that are
    proven faster; `better` and `worse` are proven by quality, the best first. `unseen` is the difference in quality
    that the problems may hide, NaN if unknown. `drafting` are the specs that need a draft model. Without a `score`
    of the baseline the task has no quality.
    """

    task: str
    count: int
    greedy: str
    keeping: pd.DataFrame
    proven: pd.DataFrame
    score: float
    scored: pd.DataFrame
    better: pd.DataFrame
    worse: pd.DataFrame
    unseen: float
    drafting: frozenset[str] = frozenset()

    @property
    def few(self) -> bool:
        """Whether these are too few problems to say anything."""
        return self.count < FEW

    @property
    def alone(self) -> pd.DataFrame:
        """Return the proven methods without a draft model if the fastest one needs it, else none."""
        drafting = self.proven["strategy"].isin(self.drafting)
        return self.proven[~drafting] if drafting[:1].any() else self.proven[:0]

    @property
    def needed(self) -> int:
        """Return about how many problems would prove the fastest method faster; 0 if it does not look so."""
        best = self.keeping.iloc[0]
        if best["speedup"] < LOOKS or math.isnan(best["speedup_findable"]):
            return 0
        return max(clusters_needed(self.count, best["speedup_findable"], best["speedup"] - 1), self.count + 1)


def near(proven: pd.DataFrame) -> list[str]:
    """Return the labels of the methods that may be as fast as the first one."""
    rest = proven.iloc[1:]
    return list(rest.loc[rest["speedup_high"] >= proven["speedup_low"].iloc[0], "label"]) if len(rest) else []


def findings(summary: pd.DataFrame, manifest: Manifest) -> Iterator[Finding]:
    """Yield the finding of each task that has a baseline and something to compare with it."""
    names, counts = task_names(summary["task"].unique()), problems(summary, manifest)
    for task, cells in summary.assign(label=row_labels(summary)).groupby("task", sort=False):
        rows = cells[(cells["samples"] > 0) & (cells["unsupported"] == "")]
        base, others = rows[rows["strategy"] == manifest.baseline], rows[rows["strategy"] != manifest.baseline]
        if not (others.empty or base.empty):
            found = _finding(names[str(task)], counts[str(task)], base.iloc[0], others, tie_of(manifest.model.dtype))
            forwards = dict(zip(rows["strategy"], rows["draft_forwards_per_token"], strict=True))
            yield replace(found, drafting=frozenset(entry.spec for entry in manifest.strategies
                                                    if entry.needs_draft(forwards.get(entry.spec, 0))))


def _finding(task: str, count: int, base: "pd.Series[float]", others: pd.DataFrame, same: float) -> Finding:
    keeping = others[kept(others, same)].sort_values("speedup", ascending=False)
    scored = others.dropna(subset=["quality", "quality_p_holm"])
    differ = scored[scored["quality_p_holm"] < SURE].sort_values("quality", ascending=False)
    before = float(base["quality"])
    return Finding(
        task, count, str(base["label"]), keeping,
        keeping[(keeping["speedup_p_holm"] < SURE) & (keeping["speedup"] > 1)], before, scored,
        differ[differ["quality"] > before], differ[differ["quality"] < before], float(scored["quality_findable"].max()))
