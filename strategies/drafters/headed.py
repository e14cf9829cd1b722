"""Drafting with a trained head: its network is asked for the tokens below a sequence and below the nodes of a tree."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.decoding.accept import Accept, rejection
from harness.decoding.loop import Drafter, Step
from harness.decoding.trained import Trained
from harness.engine.logit_warps import Warp
from harness.engine.random_stream import Stream
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.heads.expander import Expander
from harness.plugins.strategy import Request, knob
from strategies.drafters.choices import Choices, best_choices, likeliest_choices
from strategies.drafters.expanded import DynamicTree, StaticTree


LEAST = 1e-30  # a probability that is no more than rounding


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
    """Drafts a chain; above temperature 0 each token is drawn from the head's distribution, under the same warp."""

    nodes: int = knob(16, "drafted tokens, at most as many as the head predicts", low=1, high=64, sweep=(3, 7, 15))

    def drafter(self, session: Session, request: Request) -> Drafter:
        """The head of the target, one path of its steps."""
        network = self.head(session).network
        count = min(self.nodes, network.depth)
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
        return LikeliestTree(self.steps(session), self.nodes)


@dataclass(frozen=True)
class Grown(Trained):
    """Drafts a tree that the head grows where it is sure, anew at each step, as in EAGLE-2."""

    nodes: int = knob(60, "candidates that are verified", low=1, high=512, sweep=(10, 25, 60))
    width: int = knob(10, "nodes of a level that get children, and children of each", low=1, high=64, sweep=(4, 10))
    depth: int = knob(6, "levels of the tree", low=1, high=32, sweep=(3, 6, 8))

    def drafter(self, session: Session, request: Request) -> Drafter:
        """The head of the target, over a tree of its own making."""
        return DynamicTree(self.steps(session), self.width, self.depth, self.nodes)


class FreeTree:
    """A tree of fixed choices from a network whose steps do not depend on tokens: one path of steps serves it all."""

    def __init__(self, expander: Expander, choices: Choices) -> None:
        self.expander, self.choices = expander, choices

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a tree of at most `limit` levels."""
        choices = self.choices.within(limit)
        best = free_rows(self.expander, sequence, 1 + choices.nodes[-1][0]).topk(choices.widest).indices.tolist()
        return TokenTree(tuple(best[depth][rank] for depth, rank in choices.nodes), choices.parents)


class LikeliestTree:
    """The tree of the `nodes` paths with the highest products of probabilities.

    The network's steps do not depend on tokens, so that all paths have the same distribution at a depth.
    """

    def __init__(self, expander: Expander, nodes: int) -> None:
        self.expander, self.nodes = expander, nodes

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a tree of at most `limit` levels."""
        rows = free_rows(self.expander, sequence, min(self.expander.network.depth, limit))
        best = torch.softmax(rows.double(), -1).topk(min(self.nodes, rows.shape[-1]))
        chances, words = torch.stack([best.values, best.indices.double()]).tolist()  # one transfer from the device
        choices = likeliest_choices([[max(LEAST, chance) for chance in row] for row in chances], self.nodes)
        return TokenTree(tuple(int(words[depth][rank]) for depth, rank in choices.nodes), choices.parents)


class HeadChain:
    """Drafts a chain of `count` tokens: the likeliest when `stream` is None, else drawn from q (V,), which is kept.

    A network whose steps do not depend on tokens (`free`) gives all rows before any is drawn.
    """

    def __init__(self, expander: Expander, free: bool, count: int, warp: Warp, stream: Stream | None) -> None:
        self.expander, self.free, self.count, self.warp, self.stream = expander, free, count, warp, stream

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft at most `limit` tokens below `sequence`."""
        count = min(self.count, limit)
        if self.free:
            return TokenTree.chain(*self._chosen(free_rows(self.expander, sequence, count), sequence))
        tokens, probs = list[int](), list[Tensor]()
        logits, state = self.expander.start(sequence)
        for depth in range(1, count + 1):
            new, q = self._chosen(logits, [*sequence, *tokens])
            tokens, probs = tokens + new, probs + q
            if depth < count:
                logits, state = self.expander.grow(state, new, depth, torch.ones(1, depth, dtype=torch.bool))
        return TokenTree.chain(tokens, probs)

    def _chosen(self, logits: Tensor, sequence: Sequence[int]) -> tuple[list[int], list[Tensor]]:
        """Return a token of each row of `logits` (N, V), which are below `sequence`, and the rows drawn from."""
        if self.stream is None:
            return logits.argmax(-1).tolist(), []
        q = torch.softmax(self.warp(logits, [list(sequence)] * len(logits)).double(), -1)
        return [self.stream.choose(row) for row in q.cpu()], list(q)  # one transfer, whatever the number of rows


def free_rows(expander: Expander, sequence: Sequence[int], count: int) -> Tensor:
    """Return the logits (`count`, V) of a network whose steps do not depend on tokens, below `sequence`."""
    logits, state = expander.start(sequence)
    rows = [logits]
    for depth in range(1, count):
        logits, state = expander.grow(state, [0], depth, torch.ones(1, depth, dtype=torch.bool))
        rows.append(logits)
    return torch.cat(rows)
