"""The area under accuracy over parallelism; the numbers are those of specs/architectures, C5."""

import pytest

from harness.stats.aup import aup


@pytest.mark.parametrize(("points", "best", "expected"), [
    ([(1, 80)], 80, 80), ([(1, 80), (3, 78)], 80, 232.36), ([(1, 80), (3, 78)], 90, 189.61),
    ([(1, 74.79), (2.77, 74.68)], 74.98, 205.78), ([(1, 74.02), (9.11, 73.09)], 74.98, 637.65)])
def test_known_areas(points: list[tuple[float, float]], best: float, expected: float) -> None:
    assert aup(points, best) == pytest.approx(expected, abs=0.006)
    assert aup(points[::-1], best) == aup(points, best), "in any order"


def test_a_point_of_a_much_lower_accuracy_adds_nothing() -> None:
    assert aup([(1, 80), (3, 78), (9, 74.9)], 80) == aup([(1, 80), (3, 78)], 80)
    assert aup([(1, 80), (3, 78), (9, 75)], 80) > aup([(1, 80), (3, 78)], 80)
    with pytest.raises(ValueError, match="at least one point"):
        aup([], 80)
