"""Clover: the drafted tree follows the head's probabilities and spends a budget of candidates level by level.

Xiao et al. 2024 (arXiv 2405.00263), of which the network was not published; the head is that of `clover2`, and only the
tree is the earlier method's, as the authors' code describes it. Below each node, tokens are candidates that are in the
set of the likeliest ones with total probability `mass` and have at least `ratio` times the probability of the first.
Of a level the most probable candidates are kept, as many as are left of `nodes`. `mass` has no published value.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

from harness.decoding.loop import Step
from harness.decoding.trained import Trained
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.heads.expander import Expander
from harness.heads.network import Network
from harness.plugins.strategy import Request, knob
from strategies.clover2 import Clover2Network
from strategies.drafters.expanded import Growth


class BudgetTree:
    """Grows at most `nodes` candidates, in at most `depth` levels."""

    def __init__(self, expander: Expander, depth: int, nodes: int, mass: float, ratio: float) -> None:
        self.expander, self.depth, self.nodes, self.mass, self.ratio = expander, depth, nodes, mass, ratio

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a tree of at most `limit` levels."""
        growth, kept, chosen = Growth(self.expander, sequence), list[int](), list[int]()
        for level in range(min(self.depth, limit)):
            left = self.nodes - len(kept)
            if not left:
                break
            if level:
                growth.read(chosen)
            chosen = growth.best(self._likely(growth, growth.children(left)), left)
            kept += chosen
        return growth.tree(kept)

    def _likely(self, growth: Growth, nodes: Iterable[int]) -> list[int]:
        """Return those of a level's children, in order of probability below each parent, that are candidates."""
        likely = list[int]()
        for parent, siblings in groupby(nodes, key=lambda node: growth.parents[node]):
            before, first = 0.0, 0.0
            for node in siblings:
                share = math.exp(growth.values[node] - (growth.values[parent] if parent >= 0 else 0.0))
                first = first or share
                if before >= self.mass or share < self.ratio * first:
                    break
                likely.append(node)
                before += share
        return likely


@dataclass(frozen=True)
class Clover(Trained):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    nodes: int = knob(4, "candidates that are verified", low=1, high=512, sweep=(4, 10, 25))
    mass: float = knob(0.8, "probability of the tokens that are candidates", low=0.01, high=1, sweep=(0.5, 0.8, 0.95))
    ratio: float = knob(0.25, "least share of the first token's probability", low=0, high=1, sweep=(0.1, 0.25, 0.5))

    paper: ClassVar[str] = "Xiao et al. 2024, arXiv 2405.00263"
    network: ClassVar[type[Network]] = Clover2Network
    head_kind: ClassVar[str] = "clover2"

    def drafter(self, session: Session, request: Request) -> BudgetTree:
        """The head of the target, as deep as it was trained."""
        network = self.head(session).network
        return BudgetTree(self.steps(session), network.depth, self.nodes, self.mass, self.ratio)
