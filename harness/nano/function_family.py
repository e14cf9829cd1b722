"""A family of functions: templates with $a and $b for arguments and $k, $j, $m, $c, $w, ... for constants."""

from typing import NamedTuple


class Family(NamedTuple):
    """Functions that differ in names, constants and phrasing; `inputs` names the kind of each argument."""

    names: tuple[str, ...]
    inputs: tuple[str, ...]
    returns: str
    phrases: tuple[str, ...]
    bodies: tuple[str, ...]


def family(names: str, inputs: str, returns: str, phrases: tuple[str, ...], *bodies: str) -> Family:
    """Return a family; `names` and `inputs` are separated by spaces."""
    return Family(tuple(names.split()), tuple(inputs.split()), returns, phrases, bodies)
