"""Clover-2: layers re-read the target's states for drafting, and a gated recurrence takes in the drafted tokens.

Xiao et al. 2024 (arXiv 2408.00264), §3. The target's states before its final norm take in the token that follows; the
`layers` after that start as the target's last one. Each further token is taken in by a second gate, and a map of the
state (with that token, after the first step) predicts the target's next hidden state, which the target's own output
layer turns into tokens. Tokens are rows of that output layer, scaled to the size of hidden states (`unit`, not in the
paper), without which a small model's are too small to be seen. Random parts of first weights lie evenly around zero,
which in the authors' code are all positive. The tree is that of `medusa`, where the authors fix one by hand.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness.heads.blocks import norm_like, start_as_last
from harness.heads.layer import Context, DraftLayer, Shape, unit
from harness.heads.network import Network, Recipe, TargetParts
from strategies.drafters.headed import Headed

SPREAD = 0.01  # of first weights


@dataclass(frozen=True)
class Clover2Settings:
    """`heads` tokens are predicted while training."""

    heads: Annotated[int, Field(ge=1, le=16)] = 5
    layers: Annotated[int, Field(ge=1, le=8)] = 2
    unit: bool = True


class Gate(nn.Module):
    """x + g · V y, where g is in each attention head the cosine between Q norm(x) and K y."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.norm = nn.RMSNorm(shape.hidden, shape.eps)
        self.q, self.k, self.v = (near_identity(shape.hidden, share=share) for share in (1, 1, 0))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(…, D), (…, D) → (…, D)."""
        queries, keys, values = (part.view(*part.shape[:-1], self.heads, -1)
                                 for part in (self.q(self.norm(x)), self.k(y), self.v(y)))
        gates = functional.cosine_similarity(queries, keys, dim=-1)
        found: Tensor = x + (gates[..., None] * values).flatten(-2)
        return found


class Clover2Network(Network):
    """A gate and layers over the sequence; then a gate and a map for each token."""

    Settings: ClassVar[type] = Clover2Settings
    recipe: ClassVar[Recipe] = Recipe(text=0.0, target=1.0, state=10.0, decay=0.7)

    def __init__(self, target: TargetParts, settings: Any) -> None:
        super().__init__(target, settings)
        shape = Shape.of(target.config)
        self.gates = nn.ModuleList(Gate(shape) for _ in range(2))
        self.layers = nn.ModuleList(DraftLayer(shape) for _ in range(settings.layers))
        self.norm, self.head_norm = norm_like(target, shape.eps), nn.RMSNorm(shape.hidden, shape.eps)
        self.maps = nn.ModuleList(near_identity(shape.hidden, inputs) for inputs in (shape.hidden, 2 * shape.hidden))
        for layer in self.layers:
            assert isinstance(layer, DraftLayer)
            start_as_last(layer, target)

    @property
    def depth(self) -> int:
        """The depth of the training; drafts may be deeper."""
        return int(self.settings.heads)

    @property
    def reads(self) -> tuple[str, ...]:
        """The output of the last layer, before the final norm."""
        return (f"hidden:{self.target.layers}",)

    @property
    def caches(self) -> int:
        """One a layer."""
        return len(self.layers)

    def step(self, depth: int, state: Tensor, tokens: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Predict the states after `tokens`; the state of the steps is what has taken in all tokens."""
        words = functional.embedding(tokens, self.target.head.weight)
        words = unit(words) if self.settings.unit else words
        state = self.gates[bool(depth)](state, words)
        if depth:
            return self.head_norm(self.maps[1](torch.cat([state, words], -1))), state
        for layer, cache in zip(self.layers, context.caches, strict=True):
            state = layer(state, context, cache)
        state = self.norm(state)
        return self.head_norm(self.maps[0](state)), state


def near_identity(size: int, inputs: int = 0, share: float = 1) -> nn.Linear:
    """Return a map that starts as `share` times the first `size` inputs, with small random weights."""
    linear = nn.Linear(inputs or size, size)
    nn.init.uniform_(linear.weight, -SPREAD, SPREAD)
    linear.weight.data[:, :size] += share * torch.eye(size)
    nn.init.zeros_(linear.bias)
    return linear


@dataclass(frozen=True)
class Clover2(Headed):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    paper: ClassVar[str] = "Xiao et al. 2024, arXiv 2408.00264"
    network: ClassVar[type[Network]] = Clover2Network
