"""The colour and the marker of each family of strategies, the same in plots, on the page and in the terminal."""

from typing import NamedTuple
from zlib import crc32


class Look(NamedTuple):
    """A colour that can be read on white and on black, as `#RRGGBB`, and a marker of matplotlib."""

    colour: str
    marker: str


LOOKS = {
    "baseline": Look("#7D7D7D", "o"),
    "sampling": Look("#D55E00", "s"),
    "search": Look("#1F7CC8", "^"),
    "constraints": Look("#9A6A3A", "p"),
    "anti-repetition": Look("#C9579B", "v"),
    "contrast": Look("#8F68C0", "X"),
    "many-samples": Look("#A87B00", "P"),
    "speculative": Look("#009068", "D"),
    "adaptive-compute": Look("#1690A8", "<"),
    "memory": Look("#6F8B1E", "*"),
    "cache": Look("#5F74E6", ">"),
    "diffusion": Look("#C0504D", "h"),
}


def look(family: str) -> Look:
    """Return the look of a family, which depends on its name alone; one of a plugin shares that of a built-in one."""
    return LOOKS.get(family) or list(LOOKS.values())[crc32(family.encode()) % len(LOOKS)]
