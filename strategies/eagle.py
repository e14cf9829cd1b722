"""EAGLE: a small decoder layer predicts the target's next hidden state from the last one and the next token.

Li et al. 2024 (arXiv 2401.15077). The layer reads the target's hidden state after each token with the embedding of the
token that follows, and the target's own output layer turns its prediction into tokens; drafting goes on from predicted
states. The tree has `nodes` candidates, placed where they were accepted most on held-out answers. Embeddings are scaled
to the size of hidden states (`unit`), without which a small model's are too small to be seen beside them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.decoding.trained import Trained
from harness.engine.cached_sequence import shared_start
from harness.engine.session import Session
from harness.errors import UserError
from harness.heads.layer import Cache, DraftLayer, Shape
from harness.heads.network import Network, Recipe, TargetParts
from harness.plugins.strategy import Request, knob
from strategies.drafters.choices import best_choices
from strategies.drafters.expanded import StaticTree


@dataclass(frozen=True)
class EagleSettings:
    """`unroll` steps are predicted from predicted states while training; sizes of the layer, 0 for the target's."""

    unroll: Annotated[int, Field(ge=1, le=16)] = 4
    heads: Annotated[int, Field(ge=0, le=256)] = 0
    mlp: Annotated[int, Field(ge=0, le=1 << 16)] = 0
    unit: bool = True


class EagleNetwork(Network):
    """fc([embedding; state]), then a decoder layer without input norm."""

    Settings: ClassVar[type] = EagleSettings
    recipe: ClassVar[Recipe] = Recipe(rate=1e-3, text=0.0, target=1.0, state=1.0, decay=0.8)

    def __init__(self, target: TargetParts, settings: Any) -> None:
        super().__init__(target, settings)
        size = target.hidden
        heads = settings.heads or (size // 64 if size % 64 == 0 else 1)
        if size % (2 * heads):
            raise UserError(f"{heads} attention heads do not divide hidden states of {size} numbers into even parts.")
        self.fc = nn.Linear(2 * size, size)
        self.layer = DraftLayer(Shape(size, heads, settings.mlp or 8 * size // 3))

    @property
    def depth(self) -> int:
        """The depth of the training; drafts may be deeper."""
        return int(self.settings.unroll)

    def forward(self, hidden: Tensor, tokens: Tensor) -> list[Tensor]:
        """Unroll: at depth i, a state is predicted from the state that was predicted at depth i − 1."""
        length, cache, found = tokens.shape[1], Cache(), list[Tensor]()
        causal = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
        own, state, start = torch.eye(length, dtype=torch.bool, device=tokens.device), hidden, torch.arange(
            length, device=tokens.device)
        for depth in range(self.depth):
            mask = torch.cat([causal, *[own] * depth], 1)
            state = self.step(state, tokens.roll(-1 - depth, 1), start + depth, mask, cache)
            found.append(state)
        return found

    def step(self, state: Tensor, tokens: Tensor, positions: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        """Return the predicted states (B, Q, D) after `tokens` (B, Q), each of which follows a `state` (B, Q, D)."""
        words = self.target.embedding(tokens)
        if self.settings.unit:
            words = words * words.float().pow(2).mean(-1, keepdim=True).clamp_min(1e-12).rsqrt().to(words.dtype)
        predicted: Tensor = self.layer(self.fc(torch.cat([words, state], -1)), positions, mask, cache)
        return predicted


class EagleExpander:
    """Predicts below nodes of a tree; the layer's cache holds the sequence, and behind it the nodes of the tree."""

    def __init__(self, session: Session, network: EagleNetwork) -> None:
        self.session, self.network, self.cache = session, network, Cache()
        self.words = list[int]()  # the tokens that the layer has read with the states before them

    def start(self, sequence: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Read what was committed, and return the logits (1, V) after the sequence and its predicted state (1, D).

        The target has read all tokens but the last one, so that there is a state before each token but the first.
        """
        before, self.words = self.words, list(sequence[1:])
        count, device = len(self.words), self.session.engine.device
        done = min(shared_start(before, self.words), count - 1)
        self.cache.cut(done)
        mask = torch.ones(count - done, count, dtype=torch.bool, device=device).tril(done)
        logits, states = self._step(self.session.memory[done:count], self.words[done:],
                                    torch.arange(done, count, device=device), mask, 1)
        return logits, states

    def grow(self, states: Tensor, tokens: Sequence[int], depth: int, ancestors: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, V) and states (N, D) after `tokens`; `ancestors` (N, M + N) are those of `Expander`."""
        device, count = self.session.engine.device, len(self.words)
        mask = torch.cat([torch.ones(len(tokens), count, dtype=torch.bool, device=device), ancestors.to(device)], 1)
        positions = torch.full((len(tokens),), count - 1 + depth, device=device)
        return self._step(states, tokens, positions, mask, len(tokens))

    def _step(self, states: Tensor, tokens: Sequence[int], positions: Tensor, mask: Tensor, wanted: int
              ) -> tuple[Tensor, Tensor]:
        """Run the layer, and return the logits and states after the last `wanted` tokens."""
        ids = torch.tensor([list(tokens)], device=self.session.engine.device)
        predicted = self.network.step(states[None], ids, positions, mask, self.cache)[0, -wanted:]
        self.session.draft_work.forwards += 1
        self.session.draft_work.positions += len(tokens)
        return self.network.logits(0, predicted).float(), predicted


@dataclass(frozen=True)
class Eagle(Trained):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    nodes: int = knob(25, "candidates in the tree", low=1, high=512, sweep=(4, 10, 25, 60))

    paper: ClassVar[str] = "Li et al. 2024, arXiv 2401.15077"
    network: ClassVar[type[Network]] = EagleNetwork

    def drafter(self, session: Session, request: Request) -> StaticTree:
        """The head of the target, over the tree of the card."""
        head = self.head(session)
        assert isinstance(head.network, EagleNetwork)
        return StaticTree(EagleExpander(session, head.network), best_choices(head.card.ranks, self.nodes))
