"""Intervals that hold whenever one stops: by hand, beside another program's, and in simulated runs that peek."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from harness.stats import confidence_sequence
from harness.stats.confidence_sequence import ALPHA, SHARE, anytime_difference, anytime_interval, means_in_order
from tests.scale import scaled

MIXED = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.5, 0.25] * 6
GRID = 2000


def by_hand(scores: Sequence[float], precision: float) -> tuple[float, float]:
    """Return the ends of the interval: every mean of a grid is kept unless one of two gamblers has once refuted it."""
    kept = list[float]()
    for mean in (number / GRID for number in range(1, GRID)):
        above = below = 0.5
        total, squares, seen, most = 0.5, 0.25, 1, 0.5
        for score in scores:
            bet = precision / (squares / seen + precision ** 2)
            above *= 1 + min(bet, SHARE / mean) * (score - mean)
            below *= 1 - min(bet, SHARE / (1 - mean)) * (score - mean)
            most = max(most, above, below)
            seen, total = seen + 1, total + score
            squares += (score - total / seen) ** 2
        if most < 1 / ALPHA:
            kept.append(mean)
    own = math.fsum(scores) / len(scores)
    return min(kept[0], own), max(kept[-1], own)


@pytest.mark.parametrize("scores", [MIXED, [1.0] * 30, [0.0, 0.0, 1.0] * 20, [0.5] * 25, [0.2]])
@pytest.mark.parametrize("precision", [0.02, 0.1])
def test_the_ends_are_those_of_a_slow_computation(scores: list[float], precision: float) -> None:
    found = anytime_interval(scores, precision)
    assert (found.low, found.high) == pytest.approx(by_hand(scores, precision), abs=1.01 / GRID)
    assert found.mean == pytest.approx(math.fsum(scores) / len(scores))


def test_with_the_bets_of_the_paper_the_ends_are_those_of_confseq(monkeypatch: pytest.MonkeyPatch) -> None:
    """The values are those of `betting_cs` of `confseq` 0.0.11, with 10,000 breaks and running intersection."""
    def of_the_paper(numbers: np.ndarray, precision: float) -> np.ndarray:
        times = np.arange(1, len(numbers) + 1)
        means = (0.5 + np.cumsum(numbers)) / (times + 1)
        variances = np.append(0.25, ((0.25 + np.cumsum((numbers - means) ** 2)) / (times + 1))[:-1])
        return np.sqrt(2 * np.log(2 / ALPHA) / (variances * times * np.log1p(times)))

    monkeypatch.setattr(confidence_sequence, "_bets", of_the_paper)
    for scores, low, high in ((MIXED, 0.5129, 0.8316), ([1.0] * 40, 0.8380, 1.0)):
        found = anytime_interval(scores, 0.1)
        assert (found.low, found.high) == pytest.approx((low, high), abs=2e-4)


def usual(scores: np.ndarray, precision: float) -> tuple[float, float]:
    """Return the 95 % interval of a fixed number of scores."""
    reach = 1.96 * scores.std(ddof=1) / np.sqrt(len(scores))
    return float(scores.mean() - reach), float(scores.mean() + reach)


def anytime(scores: np.ndarray, precision: float) -> tuple[float, float]:
    return anytime_interval(scores, precision)[1:]


def coverage(draw: Callable[[np.random.Generator], np.ndarray], mean: float, runs: int,
             interval: Callable[[np.ndarray, float], tuple[float, float]], precision: float = 0.1) -> float:
    """Return the share of runs, each stopped when its interval is narrow enough, whose interval contains the mean."""
    covered = 0
    for seed in range(runs):
        scores = draw(np.random.default_rng(seed))
        for size in range(12, len(scores) + 1, 8):
            low, high = interval(scores[:size], precision)
            if high - low <= 2 * precision:
                break
        assert high - low <= 2 * precision
        covered += low <= mean <= high
    return covered / runs


@pytest.mark.parametrize(("draw", "mean", "most"), [
    (lambda rng: (rng.random(300) < 0.1).astype(float), 0.1, 0.8),
    (lambda rng: (rng.random(300) < 0.5).astype(float), 0.5, 0.95),
    (lambda rng: (rng.random(300) < 0.9).astype(float), 0.9, 0.8),
    (lambda rng: rng.choice([0, 0.25, 0.5, 1], 300), 0.4375, 0.95),
], ids=["0.1", "0.5", "0.9", "ties"])
def test_stopped_intervals_cover_the_mean_and_usual_ones_do_not(
        draw: Callable[[np.random.Generator], np.ndarray], mean: float, most: float) -> None:
    assert coverage(draw, mean, scaled(100, 800), anytime) >= 0.95
    assert coverage(draw, mean, 1000, usual) < most


def test_p_values_allow_for_a_stop_at_the_best_moment() -> None:
    """Of runs without a difference, looked at every eighth example, one in twenty may once look significant."""
    ever = {"anytime": 0, "usual": 0}
    runs = scaled(100, 500)
    for seed in range(runs):
        differences = np.random.default_rng(seed).choice([-1.0, 0.0, 0.0, 1.0], 200)
        looks = [differences[:size] for size in range(16, 201, 8)]
        ever["anytime"] += any(anytime_difference(some, 0.1)[1] < 0.05 for some in looks)
        ever["usual"] += any(abs(some.sum()) > 1.96 * np.sqrt((some ** 2).sum()) for some in looks)
    assert ever["anytime"] <= 0.05 * runs
    assert ever["usual"] > 0.12 * runs


def test_the_interval_of_a_difference_excludes_zero_with_its_p_value() -> None:
    sides = list[tuple[bool, bool]]()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        found, p_value = anytime_difference(rng.choice([-1.0, 0.0, 1.0], 80, p=(0.1, 0.55, 0.35)), 0.1)
        assert found.low <= found.mean <= found.high
        sides.append((p_value < 0.05, found.low > 0 or found.high < 0))
    assert all(small == excluded for small, excluded in sides)
    assert {small for small, _ in sides} == {True, False}
    same, p_value = anytime_difference([0.0] * 50, 0.1)
    assert (same.mean, p_value) == (0.0, 1.0)
    assert -same.low == pytest.approx(same.high)


def test_other_scores_have_no_interval() -> None:
    assert all(map(math.isnan, anytime_interval([], 0.1)))
    found = anytime_interval([0.5, 3.0], 0.1)
    assert (found.mean, math.isnan(found.low), math.isnan(found.high)) == (1.75, True, True)
    assert math.isnan(anytime_difference([], 0.1)[1])


def test_means_come_in_the_order_of_their_clusters() -> None:
    assert means_in_order([1, 0, 1, 0.5, 1], ["b", "a", "b", "c", "a"]).tolist() == [1.0, 0.5, 0.5]
