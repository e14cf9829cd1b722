"""Steps of a head's network below a sequence and below the nodes of a tree."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from harness.engine.cached_sequence import shared_start
from harness.engine.session import Session
from harness.heads.layer import Cache, Context
from harness.heads.network import Network


class Expander(Protocol):
    """Predicts the tokens below a sequence and below the nodes of a tree, depth by depth."""

    def __init__(self, session: Session, network: Any) -> None:
        """Draft for a session with a network."""

    def start(self, sequence: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the logits (1, V) after `sequence` and the state (1, S) that its children continue from."""

    def grow(self, states: Tensor, tokens: Sequence[int], depth: int, ancestors: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, V) and states (N, S) after nodes of the same `depth`, from 1.

        `states` (N, S) are those that their parents returned, and `ancestors` (N, M + N) tells which of all nodes that
        have been grown, these included, are on the way to each.
        """


class HeadExpander:
    """Asks a network step by step; its caches hold the sequence, and behind it the nodes of a tree."""

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
        """Return logits (N, V) and states (N, S) after nodes of a `depth`, which see the sequence and `ancestors`."""
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
