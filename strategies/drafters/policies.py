"""The policies for the length of a draft by name."""

from collections.abc import Sequence

from strategies.drafters.length import Adaptive, Confidence, Cost, Fixed, Heuristic, Length
from strategies.drafters.load import Entry, Goodput, Load, Table, Tetris

POLICIES = ("fixed", "confidence", "heuristic", "ema", "cost", "table", "goodput", "tetris")


def length(policy: str, gamma: int, threshold: float, cost: float, table: Sequence[Entry], load: Load) -> Length:
    """Create the policy that a knob names, one of `POLICIES`."""
    if policy == "table":
        return Table(gamma, table, load.sequences)
    if policy == "tetris":
        return Tetris(gamma, table, load)
    if policy == "goodput":
        return Goodput(gamma, cost, load)
    if policy == "confidence":
        return Confidence(gamma, threshold)
    if policy == "heuristic":
        return Heuristic(gamma)
    if policy == "ema":
        return Adaptive(gamma, threshold)
    return Cost(gamma, cost) if policy == "cost" else Fixed(gamma)
