"""Noise, drift and outliers of times, worked by hand and simulated."""

import numpy as np
import pytest

from harness.stats.noise import drift, noise, outliers, robust_z


def test_the_floor_holds_what_equal_work_gives() -> None:
    """Nineteen means of equal work in twenty are below the floor, which is found from one other comparison."""
    rng, inside, alarms = np.random.default_rng(2), 0, 0
    for _ in range(300):
        found = noise(rng.normal(0, 0.04 * np.sqrt(2), 60), range(60))
        assert found is not None
        inside += abs(float(rng.normal(0, 0.04 * np.sqrt(2), 60).mean())) < found.floor
        alarms += found.p_value < 0.05
    assert 0.92 <= inside / 300 <= 0.98
    assert 0.02 <= alarms / 300 <= 0.08
    assert found.spread == pytest.approx(0.04, rel=0.3)
    assert found.pairs == 60


def test_a_machine_that_is_faster_the_second_time_has_the_same_floor() -> None:
    ratios = np.random.default_rng(0).normal(0, 0.02, 50)
    steady, faster = noise(ratios, range(50)), noise(ratios - 0.05, range(50))
    assert steady is not None
    assert faster is not None
    assert faster.p_value < 0.001
    assert faster.shift.high < 0
    assert faster.floor == pytest.approx(steady.floor)
    assert faster.floor == pytest.approx(2.0096 * ratios.std(ddof=1) / np.sqrt(50), rel=0.1)
    assert noise([0.1, 0.2], [0, 0]) is None


def test_a_line_is_found_as_it_is() -> None:
    when = np.repeat(np.arange(11.0), 3)
    found = drift(0.02 * when, when + np.tile([0, 0.1, 0.2], 11), np.repeat(np.arange(11), 3))
    assert found is not None
    assert (found.change, found.moments) == (pytest.approx(0.2), 11)
    assert found.p_value < 1e-12
    assert drift([1, 2, 3], [0, 1, 2], [0, 1, 2]) is None
    assert drift([1, 2, 3, 4], [5, 5, 5, 5], [0, 1, 2, 3]) is None


def test_one_slow_strategy_of_a_block_moves_no_line() -> None:
    logs = np.zeros((11, 3))
    logs[8:, 0] = 5.0
    found = drift(logs.ravel(), np.arange(33.0), np.repeat(np.arange(11), 3))
    assert found is not None
    assert found.change == 0


def test_kinds_of_work_one_after_the_other_are_no_drift() -> None:
    rng, blocks = np.random.default_rng(5), np.arange(60)
    kinds = np.repeat(["short", "middle", "long"], 20)
    work = np.repeat([0.0, 1.0, 2.0], 20) + 0.02 * rng.normal(size=60)
    blind, seeing = drift(work, blocks, blocks), drift(work, blocks, blocks, kinds)
    assert blind is not None
    assert seeing is not None
    assert (blind.change > 1, abs(seeing.change) < 0.05) == (True, True)
    slowing = drift(work + 0.01 * blocks, blocks, blocks, kinds)
    assert slowing is not None
    assert slowing.change == pytest.approx(0.59, abs=0.05)
    assert slowing.p_value < 0.001


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
