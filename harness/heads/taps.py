"""Which hidden states of a target a head reads side by side, when it reads more than the last ones."""

import re

from harness.errors import UserError

FEWEST = 7  # layers that a model needs for the usual three taps to be different ones in order


def taps(layers: int, chosen: str = "") -> tuple[str, ...]:
    """Return the names of the inputs of layers, with `layers` for the output of the last: `chosen` are like "2-5-7".

    By default those of EAGLE-3: low, middle and high (layers 2, L // 2 and L − 3); in a shallow model, the outputs of
    the first, middle and last layer, as many as differ. Raises `UserError` for layers that the model does not have.
    """
    if not chosen:
        usual = (2, layers // 2, layers - 3) if layers >= FEWEST else (1, (layers + 1) // 2, layers)
        return tuple(f"hidden:{number}" for number in sorted(set(usual)))
    if not re.fullmatch(r"\d+(-\d+)*", chosen):
        raise UserError(f"The setting 'taps' of the head is '{chosen}': write the numbers of layers as in '2-5-7'.")
    numbers = [int(number) for number in chosen.split("-")]
    if max(numbers) > layers:
        raise UserError(f"The setting 'taps' of the head is '{chosen}', but the model has {layers} layers.")
    return tuple(f"hidden:{number}" for number in numbers)
