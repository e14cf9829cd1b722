"""Base classes of strategies with a trained head: the shapes that their drafts may have."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.accept import Accept, rejection
from harness.decoding.loop import Drafter
from harness.decoding.trained import Trained
from harness.engine.session import Session
from harness.plugins.strategy import Request, knob
from strategies.drafters.choices import Choices, best_choices
from strategies.drafters.expanded import DynamicTree, StaticTree
from strategies.drafters.free import FreeTree, LikeliestTree
from strategies.drafters.head_chain import HeadChain


@dataclass(frozen=True)
class Headed(Trained):
    """Drafts a tree whose shape is fixed by the ranks of the head's card."""

    nodes: int = knob(25, "candidates in the tree", low=1, high=512, sweep=(4, 10, 25, 60))

    def drafter(self, session: Session, request: Request) -> Drafter:
        """The head of the target, over the tree of the card."""
        head = self.head(session)
        expander, choices = self.steps(session), self.choices(head.card.ranks)
        return FreeTree(expander, choices) if head.network.free else StaticTree(expander, choices)

    def choices(self, ranks: Sequence[Sequence[float]]) -> Choices:
        """Return the tree for the shares of right tokens by depth and rank."""
        return best_choices(ranks, self.nodes)


@dataclass(frozen=True)
class Chained(Trained):
    """Drafts a chain; above temperature 0 each token is drawn from the head's distribution, under the same warp.

    A `recurrent` head may draft deeper than it was trained.
    """

    nodes: int = knob(16, "drafted tokens, at most as many as the head predicts", low=1, high=64, sweep=(3, 7, 15))

    recurrent: ClassVar[bool] = False

    def drafter(self, session: Session, request: Request) -> Drafter:
        """The head of the target, one path of its steps."""
        network = self.head(session).network
        count = self.nodes if self.recurrent else min(self.nodes, network.depth)
        return HeadChain(self.steps(session), network.free, count, self.logit_warp(), self.draws(request))

    def rule(self) -> Accept:
        """Accept with min(1, p/q)."""
        return rejection


@dataclass(frozen=True)
class Marginal(Trained):
    """Drafts the likeliest tree of a head whose steps do not depend on tokens, anew at each step."""

    nodes: int = knob(64, "candidates that are verified", low=1, high=512, sweep=(8, 16, 32, 64))

    def drafter(self, session: Session, request: Request) -> Drafter:
        """The head of the target, over the tree of its distributions."""
        return LikeliestTree(self.steps(session), self.head(session).network.depth, self.nodes)


@dataclass(frozen=True)
class Grown(Trained):
    """Drafts a tree that the head grows where it is sure, anew at each step, as in EAGLE-2."""

    nodes: int = knob(60, "candidates that are verified", low=1, high=512, sweep=(10, 25, 60))
    width: int = knob(10, "nodes of a level that get children, and children of each", low=1, high=64, sweep=(4, 10))
    depth: int = knob(6, "levels of the tree", low=1, high=32, sweep=(3, 6, 8))

    def drafter(self, session: Session, request: Request) -> Drafter:
        """The head of the target, over a tree of its own making."""
        return DynamicTree(self.steps(session), self.width, self.depth, self.nodes)
