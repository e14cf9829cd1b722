"""Blockwise parallel decoding: one hidden layer on the target's last hidden state predicts the next tokens at once.

Stern et al. 2018 (arXiv 1811.03115), §4 and 6. The layer adds a vector for each further token to the target's state,
and the target's own output layer turns the sums into tokens. The first head of the paper, which predicts the next
token, is here the target itself, whose output must not change. The paper trains one random head a step; the mean of all
is the same on average. Predictions do not see each other's tokens, so one product drafts all. The paper verifies the
likeliest token of each head (`top=1`); with more, the best `nodes` candidates form a tree as in `medusa`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.heads.layer import Context
from harness.heads.network import Network, Recipe, TargetParts
from harness.plugins.strategy import knob
from strategies.drafters.choices import Choices, best_choices
from strategies.drafters.headed import Headed


@dataclass(frozen=True)
class BlockwiseSettings:
    """`width` numbers of the hidden layer a head, 0 for those of a hidden state (the paper: of the target's MLP)."""

    heads: Annotated[int, Field(ge=1, le=16)] = 4
    width: Annotated[int, Field(ge=0, le=1 << 16)] = 0


class BlockwiseHeads(Network):
    """State + B ReLU(A state), in parts, one a head; head i predicts token t + 2 + i."""

    Settings: ClassVar[type] = BlockwiseSettings
    recipe: ClassVar[Recipe] = Recipe(text=1.0, decay=1.0)
    free: ClassVar[bool] = True

    def __init__(self, target: TargetParts, settings: Any) -> None:
        super().__init__(target, settings)
        inside = settings.heads * (settings.width or target.hidden)
        self.blocks = nn.Sequential(nn.Linear(target.hidden, inside), nn.ReLU(),
                                    nn.Linear(inside, settings.heads * target.hidden))

    @property
    def depth(self) -> int:
        """One token a head."""
        return int(self.settings.heads)

    def step(self, depth: int, state: Tensor, tokens: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """The vector of a head; those of all are made at depth 0, and are the state of further steps."""
        if not depth:
            state = torch.cat([state] * self.depth, -1) + self.blocks(state)
        return state.chunk(self.depth, -1)[depth], state


@dataclass(frozen=True)
class Blockwise(Headed):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    top: int = knob(1, "candidates of a head", low=1, high=10, sweep=(1, 4, 10))

    paper: ClassVar[str] = "Stern et al. 2018, arXiv 1811.03115"
    network: ClassVar[type[Network]] = BlockwiseHeads

    def choices(self, ranks: Sequence[Sequence[float]]) -> Choices:
        """The tree of the `top` candidates of each head."""
        return best_choices([row[:self.top] for row in ranks], self.nodes)
