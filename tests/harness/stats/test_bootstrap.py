import math
import time

import numpy as np
import pytest

from harness.stats import bootstrap
from harness.stats.bootstrap import mean_interval, ratio_interval, share_interval, sums_interval


def test_the_interval_covers_the_truth_about_as_often_as_promised() -> None:
    rng, hits, runs = np.random.default_rng(1), 0, 400
    clusters = np.repeat(np.arange(15), 4)
    for run in range(runs):
        values = 3 + rng.normal(size=15)[clusters] + rng.normal(size=60)
        found = mean_interval(values, clusters, resamples=500, seed=run)
        hits += found.low <= 3 <= found.high
    assert 0.92 <= hits / runs <= 0.98


def test_copies_of_a_measurement_do_not_narrow_the_interval() -> None:
    values, clusters = np.random.default_rng(0).normal(size=20), np.arange(20)
    once = mean_interval(values, clusters)
    often = mean_interval(np.repeat(values, 50), np.repeat(clusters, 50))
    assert often == pytest.approx(once)


def test_ratios_are_averaged_geometrically() -> None:
    found = ratio_interval(np.log([1.2, 1.6, 1.8]), ["a", "b", "c"])
    assert found.mean == pytest.approx((1.2 * 1.6 * 1.8) ** (1 / 3))
    reach = 4.3026527 * np.std(np.log([1.2, 1.6, 1.8]), ddof=1) / math.sqrt(3)  # t quantile with 2 degrees of freedom
    assert found[1:] == pytest.approx((found.mean / math.exp(reach), found.mean * math.exp(reach)))
    assert ratio_interval(np.log([2, 2]), ["a", "b"]) == pytest.approx((2, 2, 2))
    assert math.isnan(ratio_interval([0.1, 0.2], ["a", "a"]).low)
    assert all(math.isnan(value) for value in ratio_interval([], []))


def test_many_clusters_need_no_resampling(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    clusters = rng.integers(1200, size=5000)
    values = rng.exponential(size=5000) + rng.normal(size=1200)[clusters]
    short = mean_interval(values, clusters)
    monkeypatch.setattr(bootstrap, "MANY", 10_000)
    resampled = mean_interval(values, clusters, resamples=20_000)
    assert short.mean == resampled.mean
    slack = 0.03 * (short.high - short.low)
    assert (short.low, short.high) == pytest.approx((resampled.low, resampled.high), abs=slack)


def test_the_interval_stays_inside_the_sample_and_is_reproducible() -> None:
    values = [0, 0, 0, 1, 0, 0]
    found = mean_interval(values, range(6), seed=3)
    assert found == mean_interval(values, range(6), seed=3)
    assert found.mean == pytest.approx(1 / 6)
    assert 0 <= found.low < found.mean < found.high <= 1


def test_every_cluster_is_drawn() -> None:
    for place in range(6):
        values = [0.0] * 6
        values[place] = 1.0
        assert mean_interval(values, range(6)).high > 0.3, place


def test_a_score_of_sums_is_resampled_as_a_mean_is() -> None:
    rng = np.random.default_rng(5)
    clusters = rng.integers(40, size=200)
    values = rng.exponential(size=200) + rng.normal(size=40)[clusters]
    table = np.column_stack([values, np.ones(200)])
    found = sums_interval(table, clusters, lambda sums: sums[0] / sums[1], resamples=4000)
    wanted = mean_interval(values, clusters, resamples=4000)
    slack = 0.04 * (wanted.high - wanted.low)
    assert found == pytest.approx(wanted, abs=slack)
    assert found.mean == pytest.approx(wanted.mean)
    squared = sums_interval(table, clusters, lambda sums: (sums[0] / sums[1]) ** 3, resamples=500)
    assert squared.mean == pytest.approx(wanted.mean ** 3)
    one = sums_interval(table[:3], [1, 1, 1], lambda sums: sums[0])
    assert one.mean == pytest.approx(values[:3].sum())
    assert math.isnan(one.low)
    assert math.isnan(sums_interval(np.empty((0, 2)), [], lambda sums: sums[0]).mean)


def test_one_cluster_has_no_interval_and_nothing_has_no_mean() -> None:
    assert mean_interval([1, 2], ["a", "a"]).mean == 1.5
    assert math.isnan(mean_interval([1, 2], ["a", "a"]).low)
    assert all(math.isnan(value) for value in mean_interval([], []))
    with pytest.raises(ValueError, match="one length"):
        mean_interval([1, 2], ["a"])


def test_a_hundred_thousand_records_take_seconds() -> None:
    values = np.random.default_rng(0).normal(size=100_000)
    begun = time.perf_counter()
    mean_interval(values, np.arange(100_000) // 2)
    assert time.perf_counter() - begun < 20


def test_no_spread_is_not_certainty() -> None:
    """Wilson 1927: 0 of 5 right is compatible with anything up to 43 %."""
    none, every = (share_interval([value] * 5, range(5)) for value in (0.0, 1.0))
    assert (none.mean, none.low, round(none.high, 3)) == (0.0, 0.0, 0.434)
    assert (every.mean, round(every.low, 3), every.high) == (1.0, 0.566, 1.0)
    assert share_interval([0.5] * 5, range(5)) == mean_interval([0.5] * 5, range(5))
    assert share_interval([0, 1, 1], [0, 1, 2]) == mean_interval([0, 1, 1], [0, 1, 2])
