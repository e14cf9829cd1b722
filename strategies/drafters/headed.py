"""Drafting with a trained head: its network is asked for the tokens below a sequence and below the nodes of a tree."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.decoding.accept import Accept, rejection
from harness.decoding.loop import Drafter, Step
from harness.decoding.trained import Trained
from harness.engine.cached_sequence import shared_start
from harness.engine.logit_warps import Warp
from harness.engine.random_stream import Stream
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.heads.layer import Cache, Context
from harness.heads.network import Network
from harness.plugins.strategy import Request, knob
from strategies.drafters.choices import Choices, best_choices
from strategies.drafters.expanded import DynamicTree, StaticTree


@dataclass(frozen=True)
class Headed(Trained):
    """Drafts a tree whose shape is fixed by the ranks of the head's card."""

    nodes: int = knob(25, "candidates in the tree", low=1, high=512, sweep=(4, 10, 25, 60))

    def drafter(self, session: Session, request: Request) -> Drafter:
        """The head of the target, over the tree of the card."""
        head = self.head(session)
        expander, choices = HeadExpander(session, head.network), best_choices(head.card.ranks, self.nodes)
        return FreeTree(expander, choices) if head.network.free else StaticTree(expander, choices)


@dataclass(frozen=True)
class Chained(Trained):
    """Drafts a chain; above temperature 0 each token is drawn from the head's distribution, under the same warp."""

    nodes: int = knob(16, "drafted tokens, at most as many as the head predicts", low=1, high=64, sweep=(3, 7, 15))

    def drafter(self, session: Session, request: Request) -> Drafter:
        """The head of the target, one path of its steps."""
        network = self.head(session).network
        count = min(self.nodes, network.depth)
        return HeadChain(HeadExpander(session, network), count, self.logit_warp(), self.draws(request))

    def rule(self) -> Accept:
        """Accept with min(1, p/q)."""
        return rejection


@dataclass(frozen=True)
class Grown(Trained):
    """Drafts a tree that the head grows where it is sure, anew at each step, as in EAGLE-2."""

    nodes: int = knob(60, "candidates that are verified", low=1, high=512, sweep=(10, 25, 60))
    width: int = knob(10, "nodes of a level that get children, and children of each", low=1, high=64, sweep=(4, 10))
    depth: int = knob(6, "levels of the tree", low=1, high=32, sweep=(3, 6, 8))

    def drafter(self, session: Session, request: Request) -> Drafter:
        """The head of the target, over a tree of its own making."""
        return DynamicTree(HeadExpander(session, self.head(session).network), self.width, self.depth, self.nodes)


class HeadExpander:
    """An `Expander`. The network's caches hold the sequence, and behind it the nodes of the tree."""

    def __init__(self, session: Session, network: Network) -> None:
        self.session, self.network = session, network
        self.caches = [Cache() for _ in range(network.caches)]
        self.words = list[int]()  # the tokens that the network has read with the states before them

    def start(self, sequence: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Read what was committed, and return the logits (1, V) after the sequence and the state (1, S) there.

        The target has read all tokens but the last one, so that there is a state before each token but the first.
        """
        before, self.words = self.words, list(sequence[1:])
        count, device = len(self.words), self.session.engine.device
        done = min(shared_start(before, self.words), count - 1) if self.caches else count - 1
        for cache in self.caches:
            cache.cut(done)
        states = self.session.states(self.network.reads, done)[:count - done]
        mask = torch.ones(count - done, count, dtype=torch.bool, device=device).tril(done)
        context = Context(torch.arange(done, count, device=device), mask, self.caches, slice(count - done - 1, None))
        return self._step(0, states, self.words[done:], context)

    def grow(self, states: Tensor, tokens: Sequence[int], depth: int, ancestors: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, V) and states (N, S) after `tokens`; `ancestors` (N, M + N) are those of `Expander`."""
        device, count = self.session.engine.device, len(self.words)
        mask = torch.cat([torch.ones(len(tokens), count, dtype=torch.bool, device=device), ancestors.to(device)], 1)
        positions = torch.full((len(tokens),), count - 1 + depth, device=device)
        return self._step(depth, states, tokens, Context(positions, mask, self.caches))

    def _step(self, depth: int, states: Tensor, tokens: Sequence[int], context: Context) -> tuple[Tensor, Tensor]:
        """Return the logits and states of one step; of the first one, those after the last token."""
        ids = torch.tensor([list(tokens)], device=self.session.engine.device)
        features, following = self.network.step(depth, states[None], ids, context)
        if not depth or not self.network.free:
            self.session.draft_work.forwards += 1
            self.session.draft_work.positions += len(tokens)
        kept = slice(None) if depth else slice(-1, None)
        return self.network.logits(depth, features[0, kept]).float(), following[0, kept]


class FreeTree:
    """A tree of fixed choices from a network whose steps do not depend on tokens: one path of steps serves it all."""

    def __init__(self, expander: HeadExpander, choices: Choices) -> None:
        self.expander, self.choices = expander, choices

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft a tree of at most `limit` levels."""
        choices = self.choices.within(limit)
        best = free_rows(self.expander, sequence, 1 + choices.nodes[-1][0]).topk(choices.widest).indices.tolist()
        return TokenTree(tuple(best[depth][rank] for depth, rank in choices.nodes), choices.parents)


class HeadChain:
    """Drafts a chain of `count` tokens: the likeliest when `stream` is None, else drawn from q (V,), which is kept.

    A network whose steps do not depend on tokens gives all rows before any is drawn.
    """

    def __init__(self, expander: HeadExpander, count: int, warp: Warp, stream: Stream | None) -> None:
        self.expander, self.count, self.warp, self.stream = expander, count, warp, stream

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        """Draft at most `limit` tokens below `sequence`."""
        count = min(self.count, limit)
        if self.expander.network.free:
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


def free_rows(expander: HeadExpander, sequence: Sequence[int], count: int) -> Tensor:
    """Return the logits (`count`, V) of a network whose steps do not depend on tokens, below `sequence`."""
    logits, state = expander.start(sequence)
    rows = [logits]
    for depth in range(1, count):
        logits, state = expander.grow(state, [0], depth, torch.ones(1, depth, dtype=torch.bool))
        rows.append(logits)
    return torch.cat(rows)
