"""EAGLE-2: the head of EAGLE grows the tree where it is sure, anew at each step.

Li et al. 2024 (arXiv 2406.16858). At each of `depth` levels the `width` most probable nodes get `width` children each;
of all of them the `nodes` with the highest product of probabilities are verified. The head is that of `eagle`.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.trained import Trained
from harness.engine.session import Session
from harness.heads.network import Network
from harness.plugins.strategy import Request, knob
from strategies.drafters.expanded import DynamicTree
from strategies.drafters.headed import HeadExpander
from strategies.eagle import EagleNetwork


@dataclass(frozen=True)
class Eagle2(Trained):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    nodes: int = knob(60, "candidates that are verified", low=1, high=512, sweep=(10, 25, 60))
    width: int = knob(10, "nodes of a level that get children, and children of each", low=1, high=64, sweep=(4, 10))
    depth: int = knob(6, "levels of the tree", low=1, high=32, sweep=(3, 6, 8))

    paper: ClassVar[str] = "Li et al. 2024, arXiv 2406.16858"
    network: ClassVar[type[Network]] = EagleNetwork
    head_kind: ClassVar[str] = "eagle"

    def drafter(self, session: Session, request: Request) -> DynamicTree:
        """The head of the target, over a tree of its own making."""
        return DynamicTree(HeadExpander(session, self.head(session).network), self.width, self.depth, self.nodes)
