"""Repetition by the published formulas, on texts whose values can be counted by hand."""

import pytest

from harness.measure.repetition import diversity, seq_rep


def test_counted_by_hand() -> None:
    units = ["a", "b", "a", "b", "a", "b", "c"]
    assert [seq_rep(units, n) for n in (1, 2, 3, 4)] == pytest.approx([4 / 7, 0.5, 0.4, 0.25])
    assert diversity(units) == pytest.approx(0.5 * 0.6 * 0.75)


@pytest.mark.parametrize("length", [4, 10, 200])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_a_constant_text_has_one_gram(length: int, n: int) -> None:
    assert seq_rep(["a"] * length, n) == pytest.approx(1 - 1 / (length - n + 1))


def test_a_text_without_repeats() -> None:
    assert seq_rep(range(50), 2) == 0.0
    assert diversity(range(50)) == 1.0


def test_short_texts_are_undefined() -> None:
    assert seq_rep([], 1) is None
    assert seq_rep(["a"], 2) is None
    assert seq_rep(["a", "b"], 2) == 0.0
    assert diversity(["a", "b", "c"]) is None
