"""Noise, drift and outliers of times, worked by hand and simulated."""

import numpy as np
import pytest

from harness.stats.noise import drift, noise, outliers, robust_z


def test_the_floor_holds_what_equal_runs_give() -> None:
    rng, inside, alarms = np.random.default_rng(2), 0, 0
    for _ in range(300):
        first = noise(rng.normal(0, 0.04 * np.sqrt(2), 60), range(60))
        assert first is not None
        inside += abs(float(rng.normal(0, 0.04 * np.sqrt(2), 60).mean())) < first.floor
        alarms += first.p_value < 0.05
    assert inside / 300 > 0.95
    assert 0.02 <= alarms / 300 <= 0.08
    assert first.spread == pytest.approx(0.04, rel=0.3)
    assert first.pairs == 60


def test_a_machine_that_is_faster_the_second_time_has_a_floor_above_that() -> None:
    found = noise(-0.05 + np.random.default_rng(0).normal(0, 0.02, 50), range(50))
    assert found is not None
    assert found.p_value < 0.001
    assert found.shift.high < 0
    assert 0.05 < found.floor < 0.07
    assert noise([0.1, 0.2], [0, 0]) is None


def test_a_line_is_found_as_it_is() -> None:
    when = np.repeat(np.arange(11.0), 3)
    found = drift(0.02 * when, when + np.tile([0, 0.1, 0.2], 11), np.repeat(np.arange(11), 3))
    assert found is not None
    assert (found.change, found.moments) == (pytest.approx(0.2), 11)
    assert found.p_value < 1e-12
    assert drift([1, 2, 3], [0, 1, 2], [0, 1, 2]) is None
    assert drift([1, 2, 3, 4], [5, 5, 5, 5], [0, 1, 2, 3]) is None


def test_examples_that_differ_are_no_drift() -> None:
    """What is special about an example moves all strategies at once: taken one by one they would cry wolf."""
    rng, blocks, each = np.random.default_rng(4), np.repeat(np.arange(50), 8), 0
    for _ in range(300):
        logs = 0.1 * rng.normal(size=50)[blocks] + 0.02 * rng.normal(size=400)
        found = drift(logs, np.arange(400.0), blocks)
        assert found is not None
        each += found.p_value < 0.05
    assert 0.02 <= each / 300 <= 0.08


def test_robust_z_by_hand() -> None:
    logs = [0.0, 1.0, 2.0, 3.0, 100.0]  # median 2, absolute deviations 2, 1, 0, 1, 98: their median is 1
    assert robust_z(logs) == pytest.approx((np.array(logs) - 2) / 1.482602, rel=1e-5)
    assert list(outliers(logs)) == [4]
    assert list(outliers([1.0, 1.0, 1.0, 9.0])) == []
    assert list(outliers([])) == []
