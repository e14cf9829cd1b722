"""How often the verdict gives wrong advice, in simulated runs in which no strategy differs from greedy.

`python -m tests.harness.report.test_verdict_rates 2000` prints the rates in so many runs.
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from harness.measure.significance import SURE, against_baseline, corrected
from harness.report.verdict import verdict
from harness.stats.bootstrap import ratio_interval
from harness.store.schema import Manifest
from tests.runs import manifest, strategy, task
from tests.scale import scaled

OTHERS = 6  # strategies beside greedy
RUNS = scaled(40, 200)
Numbers = NDArray[np.float64]
Scores = Callable[[np.random.Generator, int], Numbers]  # the scores of greedy and the others by problem


class Wrong(NamedTuple):
    """The numbers of runs with wrong advice: on speed, on quality, and on either."""

    speed: int
    quality: int
    either: int


def right_or_wrong(rng: np.random.Generator, size: int) -> Numbers:
    """Scores of 0 or 1; strategies share how easy a problem is, so theirs are correlated."""
    return (rng.random((OTHERS + 1, size)) < rng.beta(1.2, 0.8, size)).astype(float)


def graded(rng: np.random.Generator, size: int) -> Numbers:
    """Scores from 0 to 1 around the same mean for all strategies."""
    return np.clip(rng.beta(2, 2, size) + rng.normal(0, 0.15, (OTHERS + 1, size)), 0, 1)


def simulated(rng: np.random.Generator, about: Manifest, size: int, scores: Numbers) -> pd.DataFrame:
    """The summary of a run whose speeds differ by noise alone, with these scores."""
    names, logs, rows = np.array([f"e{i}" for i in range(size)]), rng.normal(0, 0.2, (OTHERS + 1, size)), []
    logs[0] = 0
    for entry, values, own in zip(about.strategies, logs, scores, strict=True):
        pairs = pd.DataFrame({"example": names, "log_speed": values, "log_speed_base": logs[0], "score": own,
                              "score_base": scores[0]})
        interval = ratio_interval(values, names)
        rows.append({
            "task": "math", "strategy": entry.spec, "guarantee": entry.guarantee, "unsupported": "", "samples": size,
            "draft_forwards_per_token": 0.0, "parted": 0, "margin": np.nan, "same_as_baseline": 1.0,
            "quality": own.mean(), "speedup": interval.mean, "speedup_low": interval.low,
            "speedup_high": interval.high, **against_baseline(pairs, entry.spec == about.baseline)})
    return corrected(pd.DataFrame(rows))


def counted(scores: Scores, size: int, better: float = 0.0, runs: int = RUNS) -> Wrong:
    """Count wrong advice; the last strategy gains `better` in every score, up to 1."""
    rng, wrong = np.random.default_rng(size), np.zeros(3, dtype=int)
    about = manifest([strategy("greedy"), *(strategy(f"s{i}") for i in range(OTHERS))], [task("math", examples=size)])
    for _ in range(runs):
        drawn = scores(rng, size)
        drawn[-1] = np.minimum(1, drawn[-1] + better)
        lines = verdict(simulated(rng, about, size, drawn), about)
        speed = any(" take " in line for line in lines)
        quality = any("gives better answers" in line or "worse answers:" in line for line in lines)
        wrong += np.array([speed, quality, speed or quality])
    return Wrong(*wrong.tolist())


def most(rate: float) -> int:
    """Return the largest number of wrong runs that a rate of at most `rate` gives, but for one time in a thousand."""
    return int(binom.ppf(0.999, RUNS, rate))


@pytest.mark.parametrize("size", [20, 40])
@pytest.mark.parametrize("scores", [right_or_wrong, graded])
def test_wrong_advice_is_rare(scores: Scores, size: int) -> None:
    """On speed and on quality, in both directions together, in one run of twenty each; so in two on either."""
    wrong = counted(scores, size)
    assert wrong.speed <= most(SURE)
    assert wrong.quality <= most(SURE)
    assert wrong.either <= most(2 * SURE)


@pytest.mark.parametrize("scores", [right_or_wrong, graded])
def test_what_is_better_is_said(scores: Scores) -> None:
    """Else a verdict that never says anything would pass."""
    assert counted(scores, 40, better=0.9).quality > 0.9 * RUNS


if __name__ == "__main__":
    times = int(sys.argv[1])
    for drawn in (right_or_wrong, graded):
        for size in (20, 40):
            rates = zip(Wrong._fields, counted(drawn, size, runs=times), strict=True)
            print(drawn.__name__, size, *(f"{name} {100 * count / times:.1f} %" for name, count in rates), flush=True)
