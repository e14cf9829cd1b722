"""How many masks a step closes, by each rule; the numbers are those of specs/architectures, C3."""

import pytest

from harness.decoding.closing import agreeing, entropy_bound, factor, frechet, joint, split, threshold, unmasked
from harness.engine.random_stream import PhiloxStream

SIX = (0.99, 0.97, 0.95, 0.90, 0.70, 0.40)
ENTROPIES = (0.0, 0.0, 0.05, 0.1, 0.3)


def test_a_schedule_is_even_and_its_first_steps_take_the_rest() -> None:
    assert split(10, 4) == [3, 3, 2, 2]
    assert split(3, 3) == [1, 1, 1]


@pytest.mark.parametrize(("least", "count"), [(0.9, 4), (0.95, 3), (1.1, 1)])
def test_threshold(least: float, count: int) -> None:
    assert threshold(SIX, least) == count


@pytest.mark.parametrize(("chances", "most", "paper", "official"), [
    (SIX, 1.0, 4, 4), (SIX, 0.5, 4, 4), ((0.9, 0.3), 1.0, 1, 2), ((0.99, 0.9, 0.6), 1.0, 2, 3), (SIX, 0.0, 1, 1),
    ((0.99, 0.99), 1.0, 2, 2)])
def test_the_code_of_the_factor_closes_the_last_place_although_it_fails(
        chances: tuple[float, ...], most: float, paper: int, official: int) -> None:
    assert factor(chances, most) == paper
    assert factor(chances, most, official=True) == official


@pytest.mark.parametrize(("chances", "margin", "count"), [
    (SIX, 0.0, 5), (SIX, 0.02, 5), (SIX, 0.25, 4), ((0.99, 0.9, 0.6), 0.0, 3), (SIX, 1.0, 1)])
def test_frechet(chances: tuple[float, ...], margin: float, count: int) -> None:
    assert frechet(chances, margin) == count


@pytest.mark.parametrize("chance", [0.5, 0.8, 0.9, 0.97])
def test_frechet_is_factor_one_where_all_chances_are_equal(chance: float) -> None:
    assert frechet([chance] * 40, 0.0) == factor([chance] * 40, 1.0)


@pytest.mark.parametrize(("most", "count"), [(0.0, 3), (0.05, 3), (0.1, 4), (0.15, 4), (0.5, 5)])
def test_entropy_bound(most: float, count: int) -> None:
    assert entropy_bound(ENTROPIES, most) == count


def test_the_original_process_fills_each_mask_at_the_same_rate() -> None:
    """Of n masks, steps of equal length fill n / steps each on average; the last one fills what is left."""
    drawn = [unmasked(1000, 0, 4, 0.0, PhiloxStream(seed)) for seed in range(20)]
    assert 240 < sum(drawn) / 20 < 260
    assert 480 < unmasked(1000, 2, 4, 0.0, PhiloxStream(3)) < 520, "a half, when two quarters of the time are left"
    assert unmasked(7, 3, 4, 0.001, PhiloxStream(0)) == 7
    assert unmasked(1, 0, 1000, 0.001, PhiloxStream(0)) == 1


def test_edits_are_other_tokens_above_their_threshold() -> None:
    tokens, best, chances = [5, 0, 7, 0], [6, 8, 7, 9], [0.6, 0.4, 0.9, 0.3]
    is_open = [False, True, False, True]
    assert joint(tokens, best, chances, is_open, 0.5, 1.0) == [1], "the best of the open ones, although it is unsure"
    assert joint(tokens, best, chances, is_open, 0.2, 1.0) == [1, 3]
    assert joint(tokens, best, chances, is_open, 0.2, 0.5) == [0, 1, 3]
    assert joint(tokens, best, chances, [False] * 4, 0.5, 0.7) == []


def test_an_oracle_takes_what_is_right() -> None:
    assert agreeing([4, 5, 6], [4, 0, 6]) == [0, 2]
    assert agreeing([4, 5], [0, 0]) == [0]
