"""Slot errors of texts about restaurants, counted by hand."""

import pytest

from harness.scoring.slots import RESTAURANTS, slot_errors

FULL = {"name": "The Blue Spice", "eatType": "coffee shop", "priceRange": "less than £20", "customer rating":
        "5 out of 5", "area": "city centre", "familyFriendly": "no", "near": "Café Rouge"}


def errors(text: str, **slots: str) -> tuple[int, int, int]:
    return slot_errors(text, [(name.replace("_", " "), value) for name, value in slots.items()], RESTAURANTS)


@pytest.mark.parametrize("text", [
    "The Blue Spice is a coffee shop near Café Rouge in the city centre. It costs less than £20, is rated 5 out of 5, "
    "and is not family-friendly.",
    "Blue Spice is a cheap, adults only coffee shop in the centre of the city near Café Rouge with five stars.",
    "Near café rouge there is a highly rated, inexpensive Coffee Shop, Blue Spice, downtown; children are not welcome. "
    "Blue Spice is open."])
def test_all_slots_in_other_words(text: str) -> None:
    assert errors(text, **FULL) == (0, 0, 0)


@pytest.mark.parametrize(("text", "slots", "found"), [
    ("", FULL, (7, 0, 0)),
    ("A place.", {"name": "Aromi"}, (1, 0, 0)),
    ("Aromi by the river.", {"name": "Aromi", "area": "riverside"}, (0, 0, 0)),
    ("Aromi in the city centre.", {"name": "Aromi", "area": "riverside"}, (0, 0, 1)),  # wrong, and not missing too
    ("Aromi is Italian.", {"name": "Aromi"}, (0, 0, 1)),
    ("Aromi is a restaurant.", {"name": "Aromi"}, (0, 0, 0)),  # a word for all of them
    ("Aromi is a restaurant.", {"name": "Aromi", "eatType": "pub"}, (1, 0, 0)),
    ("Aromi is a pub, a pub.", {"name": "Aromi", "eatType": "pub"}, (0, 1, 0)),
    ("Aromi near Zizzi, near Zizzi.", {"name": "Aromi", "near": "Zizzi"}, (0, 1, 0)),
    ("Aromi, oh Aromi.", {"name": "Aromi"}, (0, 0, 0)),
    ("The Italian Pub.", {"name": "Italian Pub"}, (0, 0, 0)),  # words of a name are no other slots
    ("Aromi is family friendly.", {"name": "Aromi", "familyFriendly": "no"}, (0, 0, 1)),
    ("Aromi isn't good for families.", {"name": "Aromi", "familyFriendly": "yes"}, (0, 0, 1)),
    ("Aromi has a high price range and low customer ratings.", {"name": "Aromi", "priceRange": "high",
                                                               "customer_rating": "low"}, (0, 0, 0)),
    ("Aromi has high customer ratings.", {"name": "Aromi", "priceRange": "high"}, (1, 0, 1)),
    ("Aromi costs £20-25.", {"name": "Aromi", "priceRange": "£20-25"}, (0, 0, 0)),
    ("Aromi costs £20-25 and is expensive.", {"name": "Aromi", "priceRange": "£20-25"}, (0, 0, 1)),
    ("Aromi is inexpensive.", {"name": "Aromi", "priceRange": "high"}, (0, 0, 1)),
    ("Aromi serves Thai food.", {"name": "Aromi", "food": "Thai"}, (0, 0, 0)),  # a value that the table lacks
    ("Aromi is publicly known.", {"name": "Aromi", "eatType": "pub"}, (1, 0, 0)),
])
def test_slots_that_are_missing_repeated_or_wrong(text: str, slots: dict[str, str], found: tuple[int, int, int]
                                                  ) -> None:
    assert errors(text, **slots) == found
