import pytest

from harness.errors import UserError
from harness.heads.taps import taps


@pytest.mark.parametrize(("layers", "numbers"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (5, [1, 3, 5]), (7, [2, 3, 4]),
                                                 (10, [2, 5, 7]), (32, [2, 16, 29])])
def test_the_usual_taps_are_different_layers_in_order(layers: int, numbers: list[int]) -> None:
    assert taps(layers) == tuple(f"hidden:{number}" for number in numbers)


def test_taps_are_chosen_by_number() -> None:
    assert taps(10, "0-4-10") == ("hidden:0", "hidden:4", "hidden:10")


@pytest.mark.parametrize(("chosen", "says"), [("2,5", "write the numbers"), ("a", "write the numbers"),
                                              ("2-", "write the numbers"), ("2-11", "has 10 layers")])
def test_taps_that_the_model_does_not_have_are_refused(chosen: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        taps(10, chosen)
