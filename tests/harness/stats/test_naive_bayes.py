"""Naive Bayes against fractions by hand."""

import math

import numpy as np

from harness.stats.naive_bayes import NaiveBayes


def test_log_probabilities_are_smoothed_shares_of_tokens() -> None:
    found = NaiveBayes.of([[[0, 0, 1], [0]], [[2]]], 3)
    np.testing.assert_allclose(np.exp(found.logs), [[4 / 7, 2 / 7, 1 / 7], [1 / 4, 1 / 4, 2 / 4]])


def test_a_text_is_of_the_kind_that_makes_its_tokens_likeliest() -> None:
    """One token of each kind: 4/7 · 1/7 is less than 1/4 · 2/4."""
    found = NaiveBayes.of([[[0, 0, 1], [0]], [[2]]], 3)
    assert math.isclose(4 / 7 * 1 / 7, math.exp(found.logs[0, [0, 2]].sum()))
    assert [found.kind(text) for text in ([0, 2], [0, 0, 2], [2], [1], [])] == [1, 0, 1, 0, None]
