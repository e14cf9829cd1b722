"""Paired tests and intervals: worked by hand, against scipy, and simulated at their nominal rates."""

import math
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, permutation_test

from harness.stats.bootstrap import mean_interval, ratio_interval
from harness.stats.multiple import holm
from harness.stats.paired import LIMIT, difference_interval, mcnemar, mean_test, paired_test, sign_flip
from harness.stats.power import clusters_needed, smallest_effect

RUNS = 600
QUESTIONS, EACH = 40, 3  # an example with three samples or repeats
CLUSTERS = np.repeat(np.arange(QUESTIONS), EACH)
Numbers = NDArray[np.float64]


def ratios(rng: np.random.Generator, effect: float = 0.0, tails: bool = False) -> Numbers:
    """Log-ratios of speeds: 12 % between questions, 4 % within, sometimes with one time in twenty off by far."""
    values = effect + 0.12 * rng.normal(size=QUESTIONS)[CLUSTERS] + 0.04 * rng.normal(size=len(CLUSTERS))
    if tails:
        values = values + rng.choice([-1, 1], len(CLUSTERS)) * rng.exponential(0.4, len(CLUSTERS)) * (
            rng.random(len(CLUSTERS)) < 0.05)
    return values


def answers(rng: np.random.Generator, change: float = 0.0) -> Numbers:
    """Differences of right-or-wrong scores of two strategies that share how hard a question is."""
    easy = rng.beta(1.2, 0.8, QUESTIONS)[CLUSTERS]
    first, second = rng.random(len(CLUSTERS)) < easy, rng.random(len(CLUSTERS)) < np.clip(easy + change, 0, 1)
    return second.astype(float) - first.astype(float)


@pytest.mark.parametrize("tails", [False, True])
def test_intervals_of_clustered_speeds_cover_and_tests_raise_few_alarms(tails: bool) -> None:
    rng, covered, alarms, naive = np.random.default_rng(7 + tails), 0, 0, 0
    for run in range(RUNS):
        values = ratios(rng, tails=tails)
        found = mean_interval(values, CLUSTERS, resamples=600, seed=run)
        covered += found.low <= 0 <= found.high
        alarms += sign_flip(values, CLUSTERS, draws=799, seed=run) < 0.05
        naive += sign_flip(values, range(len(values)), draws=399, seed=run) < 0.05
    assert 0.93 <= covered / RUNS <= 0.97
    assert 0.03 <= alarms / RUNS <= 0.07
    assert tails or naive / RUNS > 0.15, "without clusters the test must be seen to fail, else this shows nothing"


@pytest.mark.parametrize("clusters", [2, 3, 5, 20])
def test_an_interval_of_speed_excludes_one_exactly_if_its_p_is_below_5_percent(clusters: int) -> None:
    rng, covered, split = np.random.default_rng(clusters), 0, 0
    for run in range(RUNS):
        shift = 1.5 * rng.uniform() / math.sqrt(clusters)
        values, groups = 0.5 * rng.normal(size=2 * clusters), np.tile(range(clusters), 2)
        found = ratio_interval(values, groups)
        covered += found.low <= 1 <= found.high
        found, p_value = ratio_interval(values + shift, groups), mean_test(values + shift, groups)
        assert (found.low > 1 or found.high < 1) == (p_value < 0.05)
        other = mean_interval(values + shift, groups, resamples=200, seed=run)
        split += (other.low > 0 or other.high < 0) != (p_value < 0.05)
    assert 0.93 <= covered / RUNS <= 0.97
    assert clusters > 5 or split / RUNS > 0.05, "a bootstrap of few clusters must be seen to disagree"


def test_intervals_of_clustered_scores_cover_and_tests_raise_few_alarms() -> None:
    rng, covered, alarms = np.random.default_rng(11), 0, 0
    for run in range(RUNS):
        values = answers(rng)
        found = difference_interval(values, CLUSTERS)
        covered += found.low <= 0 <= found.high
        alarms += sign_flip(values, CLUSTERS, draws=799, seed=run) < 0.05
    assert 0.93 <= covered / RUNS <= 0.97
    assert 0.03 <= alarms / RUNS <= 0.07


def test_an_effect_of_the_smallest_size_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(3)
    effect = smallest_effect(np.concatenate([ratios(rng) for _ in range(200)]),
                             np.concatenate([CLUSTERS + QUESTIONS * i for i in range(200)])) * math.sqrt(200)
    assert effect == pytest.approx((1.96 + 0.8416) * math.sqrt((0.12 ** 2 + 0.04 ** 2 / EACH) / QUESTIONS), rel=0.03)
    found = sum(sign_flip(ratios(rng, effect), CLUSTERS, draws=799, seed=run) < 0.05 for run in range(RUNS))
    assert 0.75 <= found / RUNS <= 0.85


def test_holm_keeps_the_rate_for_the_whole_family() -> None:
    rng = np.random.default_rng(5)
    families = [[sign_flip(ratios(rng), CLUSTERS, draws=799, seed=run) for _ in range(8)] for run in range(150)]
    assert sum(min(family) < 0.05 for family in families) / 150 > 0.2
    assert sum(min(holm(family)) < 0.05 for family in families) / 150 < 0.09


def test_mcnemar_by_hand() -> None:
    first = [1] * 10 + [0] * 2 + [1] * 30 + [0] * 5
    second = [0] * 10 + [1] * 2 + [1] * 30 + [0] * 5  # ten lost, two won
    assert mcnemar(first, second) == pytest.approx(2 * binom.cdf(2, 12, 0.5))
    assert mcnemar(first, second) == pytest.approx(2 * (1 + 12 + 66) / 4096)
    assert mcnemar(second, first) == mcnemar(first, second)
    assert mcnemar([1, 0], [1, 0]) == 1.0
    assert mcnemar([], []) == 1.0
    with pytest.raises(ValueError, match="one length"):
        mcnemar([1], [1, 0])


def test_few_clusters_try_every_sign() -> None:
    values = np.array([0.3, 0.1, -0.05, 0.2, 0.4, -0.01])
    by_hand = [abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in product((1, -1), repeat=6)]
    assert sign_flip(values, range(6)) == np.mean([x >= abs(values.sum()) - 1e-12 for x in by_hand])
    with_scipy = permutation_test((values,), np.sum, permutation_type="samples", vectorized=False)
    assert sign_flip(values, range(6)) == pytest.approx(with_scipy.pvalue)
    assert sign_flip([1, 1, 1], [0, 1, 2]) == 0.25
    assert sign_flip([1, 1, 1], [0, 0, 0]) == 1.0, "one question is one coin"
    assert sign_flip([0.0, 0.0], [0, 1]) == 1.0
    assert sign_flip([], []) == 1.0


def test_drawn_signs_and_the_limit_agree_with_all_of_them() -> None:
    signs = [1.0] * 20 + [-1.0] * 8
    exact = mcnemar(np.array(signs) > 0, np.array(signs) < 0)
    assert sign_flip(signs, range(28)) == pytest.approx(exact, abs=0.006)
    assert sign_flip(signs, range(28)) == sign_flip(signs, range(28)), "seeded"
    assert sign_flip([1.0] * 40, range(40)) == 1 / 10_000, "drawn p-values are never zero"
    many = np.random.default_rng(0).choice([-1.0, 1.0], LIMIT + 201, p=[0.47, 0.53])
    assert sign_flip(many, range(len(many))) == pytest.approx(mcnemar(many > 0, many < 0), rel=0.1)


def test_one_answer_a_question_is_tested_exactly_and_several_by_question() -> None:
    lost = [-1.0] * 6 + [0.0] * 20
    assert paired_test(lost, range(26)) == pytest.approx(2 / 64)
    assert paired_test(lost, [0] * 6 + list(range(1, 21))) == 1.0, "six answers to one question are one question"
    assert math.isnan(paired_test([], []))


def test_equal_scores_leave_room_for_others() -> None:
    found = difference_interval([0.0] * 5, range(5))
    assert (found.mean, round(found.low, 3), round(found.high, 3)) == (0.0, -0.434, 0.434)  # Wilson 1927: 0 of 5
    assert difference_interval([0, 1, -1], range(3)) == mean_interval([0, 1, -1], range(3))
    assert math.isnan(difference_interval([0.0], [0]).low)


def test_the_smallest_effect_by_hand() -> None:
    values = [0.1, 0.3, 0.2, 0.6]
    reach = 3.1824463 + 0.9784723  # t quantiles at 0.975 and 0.8 with 3 degrees of freedom
    assert smallest_effect(values, range(4)) == pytest.approx(reach * np.std(values, ddof=1) / 2)
    doubled = smallest_effect(np.repeat(values, 2), np.repeat(range(4), 2))
    assert doubled == pytest.approx(smallest_effect(values, range(4))), "copies are no news"
    assert math.isnan(smallest_effect([0.1], [0]))
    assert math.isnan(smallest_effect([0.1, 0.1, 0.1], range(3)))
    assert clusters_needed(40, 0.06, 0.02) == 360


def test_tests_that_were_not_made_do_not_count() -> None:
    found = holm([0.01, math.nan, 0.04, 0.03])
    assert [found[i] for i in (0, 2, 3)] == pytest.approx([0.03, 0.06, 0.06])
    assert math.isnan(found[1])
