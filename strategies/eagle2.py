"""EAGLE-2: the head of EAGLE grows the tree where it is sure, anew at each step.

Li et al. 2024 (arXiv 2406.16858). At each of `depth` levels the `width` most probable nodes get `width` children each;
of all of them the `nodes` with the highest product of probabilities are verified. The head is that of `eagle`.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.heads.network import Network
from strategies.drafters.headed import Grown
from strategies.eagle import EagleNetwork


@dataclass(frozen=True)
class Eagle2(Grown):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    paper: ClassVar[str] = "Li et al. 2024, arXiv 2406.16858"
    network: ClassVar[type[Network]] = EagleNetwork
    head_kind: ClassVar[str] = "eagle"
