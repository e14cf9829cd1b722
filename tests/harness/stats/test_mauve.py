"""MAUVE against published values, against the reference library where it is installed, and at its two ends."""

import numpy as np
import pytest

from harness.stats.mauve import SEEDS, area, histograms, mauve


def cloud(seed: int, count: int, shift: float = 0.0, size: int = 12) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(6, size)) * 3
    return centres[rng.integers(6, size=count)] + rng.normal(size=(count, size)) + shift


def test_the_score_of_two_histograms() -> None:
    p, q = np.array([0.5, 0.5, 0]), np.array([0.25, 0.25, 0.5])
    assert area(p, q) == pytest.approx(0.27811, abs=5e-6)
    assert area(q, p) == pytest.approx(0.27811, abs=5e-6)
    assert area(np.array([1.0, 0]), np.array([0, 1.0])) == pytest.approx(0.004072, abs=5e-7)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.25, 0.25, 0.5), (0.3, 0.7), (1.0, 0.0), (0.1,) * 10])
def test_equal_histograms_score_one_whatever_their_values(shares: tuple[float, ...]) -> None:
    assert area(np.array(shares), np.array(shares)) == pytest.approx(1)


def test_it_falls_as_the_sets_part() -> None:
    scores = [mauve(cloud(1, 200), cloud(2, 200, shift)) for shift in (0, 0.5, 1, 4)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.9
    assert scores[-1] < 0.05


def test_the_same_texts_score_one_and_a_seed_gives_one_score() -> None:
    one, other = cloud(1, 120), cloud(2, 120, 0.8)
    assert mauve(one, one) == pytest.approx(1)
    assert mauve(one, other) == mauve(one, other)
    assert len({mauve(one, other, seed) for seed in SEEDS}) > 1


def test_the_number_of_clusters_follows_the_smaller_set() -> None:
    for ours, theirs, clusters in ((300, 80, 8), (10, 10, 2), (3, 40, 2)):
        p, q = histograms(cloud(1, ours), cloud(2, theirs), 25)
        assert (len(p), len(q)) == (clusters, clusters)
        assert (p.sum(), q.sum()) == pytest.approx((1, 1))
        p, q = histograms(np.tile([1.0, 0.0], (ours, 1)), np.tile([0.0, 1.0], (theirs, 1)), 25)
        assert (p.max(), q.max(), p @ q) == (1, 1, 0)


def test_sets_with_hardly_any_different_texts() -> None:
    point = np.ones((5, 4))
    assert mauve(point, point) == pytest.approx(1)
    assert mauve(point, -point) == pytest.approx(0.004072, abs=5e-7)
    assert 0 <= mauve(cloud(1, 1), cloud(2, 1)) <= 1


@pytest.mark.filterwarnings("ignore")
def test_it_is_the_reference_librarys() -> None:
    from mauve import compute_mauve as reference
    ours, theirs = cloud(1, 300), cloud(2, 300, 0.4)
    found = [reference(p_features=ours, q_features=theirs, seed=seed) for seed in SEEDS]
    assert [area(one.p_hist, one.q_hist) for one in found] == pytest.approx([one.mauve for one in found])
    assert len(histograms(ours, theirs, 25)[0]) == found[0].num_buckets
    mine = [mauve(ours, theirs, seed) for seed in SEEDS]
    spread = np.std([one.mauve for one in found]) + np.std(mine)
    assert abs(np.mean(mine) - np.mean([one.mauve for one in found])) < 2 * spread
